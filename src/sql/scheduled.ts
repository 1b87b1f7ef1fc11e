import type { Queryable } from '../db.js';
import type { Id } from '../types.js';
import { statement } from './statement.js';
import { timestamp } from './time.js';
import type { Incarnation } from './workers.js';

/**
 * A producer's change to one message of its queue ($1 the message, $2 the queue, $3 and $4 the producer). No row at all
 * means that the producer is fenced.
 */
const onMessage = (name: string, change: (s: string) => string, which: string) =>
  statement(
    name,
    (s) => `
  with me as materialized (select from ${s}.pgqrs_workers where id = $3 and started_at = $4::timestamptz),
  changed as (
    ${change(s)} where m.id = $1 and m.queue_id = $2 and m.archived_at is null and ${which} and exists (select from me)
    returning 1)
  select exists (select from changed) as changed from me`,
  );

const UNTAKEN = 'm.consumer_worker_id is null';

const CANCEL = onMessage('cancel_message', (s) => `delete from ${s}.pgqrs_messages m`, UNTAKEN);
/** A time that has passed means now: the message lines up behind those that are due already. */
const RESCHEDULE = onMessage(
  'reschedule_message',
  (s) =>
    `update ${s}.pgqrs_messages m set vt = greatest(now(), coalesce($6::timestamptz, now() + $5::float8 * interval '1 second'))`,
  UNTAKEN,
);
const EXTEND = onMessage(
  'extend_lease',
  (s) => `update ${s}.pgqrs_messages m set vt = m.vt + $5::float8 * interval '1 second'`,
  'm.consumer_worker_id is not null and m.vt > now()',
);

export interface Target {
  messageId: Id;
  queueId: Id;
  worker: Incarnation;
}

/** When a message is to be due. */
export type Due = { delaySeconds: number } | { at: Date };

/** Each answers whether the message was there in the wanted state, or nothing when the producer is fenced. */
export type Changed = Promise<boolean | undefined>;

/** Deletes a message that nobody has taken. */
export function cancelMessage(on: Queryable, target: Target): Changed {
  return change(CANCEL, on, target);
}

/** Changes when a message that nobody has taken is due. */
export function rescheduleMessage(on: Queryable, target: Target, due: Due): Changed {
  const [delaySeconds, at] = 'at' in due ? [null, timestamp(due.at)] : [due.delaySeconds, null];
  return change(RESCHEDULE, on, target, delaySeconds, at);
}

/** Adds seconds to a lease that has not run out, whoever holds it. */
export function extendLease(on: Queryable, target: Target, seconds: number): Changed {
  return change(EXTEND, on, target, seconds);
}

async function change(
  text: (schema: string) => string,
  on: Queryable,
  { messageId, queueId, worker }: Target,
  ...more: readonly (number | string | null)[]
): Changed {
  const [row] = await on.query<{ changed: boolean }>(text(on.schema), [
    messageId,
    queueId,
    worker.id,
    worker.incarnation,
    ...more,
  ]);
  return row?.changed;
}
