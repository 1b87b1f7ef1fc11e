/*
 * Which leased messages may be taken, as conditions on `m`, a message. `offset 0` keeps the planner from reading a whole
 * table of workers into a hash for the sake of a few leases.
 */

/** The lease, if there ever was one, was given back or is one of ours, which comes back by itself when it expires. */
export const unleasedOrOurs = (s: string) => `m.consumer_worker_id is null
  or exists (select from ${s}.sluice_workers ours where ours.worker_id = m.consumer_worker_id offset 0)`;

/**
 * Whether a message that is due may be taken: not while a foreign worker, which never renews, may still be at it.
 * How long that is, is a policy. Looked at only where a lease has expired.
 * @param policy an expression of text: 'never', 'stale' or 'expired'
 */
export const takeable = (s: string, policy: string) => `(
  ${unleasedOrOurs(s)}
  or ${policy} = 'expired'
  or (${policy} = 'stale' and m.vt <= now() - interval '60 seconds' and exists (
    select from ${s}.pgqrs_workers w
    where w.id = m.consumer_worker_id and w.heartbeat_at <= now() - interval '60 seconds' offset 0)))`;

/** Whether the queue is not paused. */
export const unpaused = (s: string, queue: string) =>
  `not exists (select from ${s}.sluice_queues q where q.queue_id = ${queue} and q.paused_at is not null)`;
