import type { Queryable } from '../db.js';
import type { ForeignLeases, Id, StoredMessage } from '../types.js';
import { statement } from './statement.js';
import { date, seconds } from './time.js';
import type { Incarnation } from './workers.js';

/** One delivery of a message: renewals change `vt`, so only the count tells it from the next one. */
export interface Delivery {
  id: Id;
  /** Null: whichever delivery the worker holds, as pgqrs' calls by id mean it. */
  readCount: number | null;
}

/** The lease, if there ever was one, was given back or is one of ours, which comes back by itself when it expires. */
const unleasedOrOurs = (s: string) => `m.consumer_worker_id is null
  or exists (select from ${s}.sluice_workers ours where ours.worker_id = m.consumer_worker_id)`;

/**
 * Whether a message that is due may be claimed: not while a foreign worker, which never renews, may still be at it.
 * How long that is, is a policy ($4). Looked at only where a lease has expired.
 */
const claimable = (s: string) => `(
  ${unleasedOrOurs(s)}
  or $4 = 'expired'
  or ($4 = 'stale' and m.vt <= now() - interval '60 seconds' and exists (
    select from ${s}.pgqrs_workers w where w.id = m.consumer_worker_id and w.heartbeat_at <= now() - interval '60 seconds')))`;

/**
 * The pick is materialised (an `id in (… limit …)` may be planned as a scan of everything) and its rows are reached by
 * ctid: they are locked in the same statement and cannot move. The last join brings back the order, since UPDATE
 * returns rows in heap order. `me` pins the claiming worker in its incarnation: no row at all means that it is fenced.
 * Changing `origin` tells the trigger on foreign claims that this one has checked already.
 */
const CLAIM = statement(
  'claim_messages',
  (s) => `
  with me as materialized (
    select id from ${s}.pgqrs_workers where id = $5 and started_at = $6::timestamptz for key share),
  picked as materialized (
    select m.ctid as at, m.id, m.vt from ${s}.pgqrs_messages m
    where exists (select from me) and m.queue_id = $1 and m.vt <= now() and m.archived_at is null and m.read_ct < $3 and ${claimable(s)}
    order by m.vt, m.id limit $2 for update of m skip locked),
  claimed as (
    update ${s}.pgqrs_messages m
    set vt = now() + $7 * interval '1 second', read_ct = read_ct + 1, consumer_worker_id = $5,
      dequeued_at = coalesce(dequeued_at, now()), origin = case origin when 1 then 2 else 1 end
    where m.ctid = any (array(select at from picked))
    returning id, payload, vt, enqueued_at, read_ct, dequeued_at, producer_worker_id)
  select claimed.id::text as id, claimed.payload, claimed.read_ct as "readCount",
    claimed.producer_worker_id::text as "producerWorkerId", ${seconds('claimed.vt')} as vt,
    ${seconds('claimed.enqueued_at')} as "enqueuedAt", ${seconds('claimed.dequeued_at')} as "dequeuedAt"
  from me left join (picked join claimed using (id)) on true
  order by picked.vt, picked.id`,
);

/** When the next message will be due, in ms from now: a delay that ends, or a lease that expires. */
const NEXT_DUE = statement(
  'next_due',
  (s) => `
  select greatest(0, ${seconds('m.vt')} - ${seconds('now()')}) * 1000 as ms from ${s}.pgqrs_messages m
  where m.queue_id = $1 and m.vt is not null and m.archived_at is null and m.read_ct < $2
    and (${unleasedOrOurs(s)} or $3 = 'expired')
  order by m.vt, m.id limit 1`,
);

/**
 * `$1, $2` name deliveries, `$3, $4` the worker that holds them. A delivery is known exactly, whoever asks; a bare id
 * is not, so there the incarnation counts: what a taken-over worker's successor holds is none of its business.
 *
 * CASE keeps the conditions from the planner. By its statistics hardly any message is leased, let alone by this worker,
 * so it would compare each of them with each one wanted (880 ms for 1,000 of 50,000; by their ids 9 ms).
 */
const onDeliveries = (name: string, write: (s: string) => string) =>
  statement(
    name,
    (s) => `
  with wanted as (select * from unnest($1::bigint[], $2::int[]) as w (id, read_ct))
  ${write(s)} wanted
  where m.id = wanted.id and case
    when m.consumer_worker_id is distinct from $3 or m.archived_at is not null then false
    when wanted.read_ct is not null then m.read_ct = wanted.read_ct
    else exists (select from ${s}.pgqrs_workers w where w.id = $3 and w.started_at = $4::timestamptz) end
  returning m.id::text as id, m.read_ct as "readCount"`,
  );

const ARCHIVE = onDeliveries(
  'archive_messages',
  (s) => `update ${s}.pgqrs_messages m set archived_at = now() from`,
);
const DELETE = onDeliveries('delete_messages', (s) => `delete from ${s}.pgqrs_messages m using`);
const RELEASE = onDeliveries(
  'release_messages',
  (s) =>
    `update ${s}.pgqrs_messages m set vt = now() + $5 * interval '1 second', consumer_worker_id = null from`,
);
/** Adds to what is left of the lease: never shortens it, never extends into the past. */
const EXTEND = onDeliveries(
  'extend_messages',
  (s) => `update ${s}.pgqrs_messages m set vt = greatest(m.vt, now()) + $5 * interval '1 second' from`,
);
/**
 * Never handed out, so not counted as a delivery. The claim has overwritten the old `vt`; the time of enqueueing puts
 * the message back before those that were behind it.
 */
const GIVE_BACK = onDeliveries(
  'give_back_messages',
  (s) => `
  update ${s}.pgqrs_messages m set vt = least(now(), m.enqueued_at), read_ct = m.read_ct - 1, consumer_worker_id = null,
    dequeued_at = case when m.read_ct > 1 then m.dequeued_at end
  from`,
);

/** One row with the count, or none when the incarnation is over: its successor's leases are not counted. */
const COUNT_HELD = statement(
  'count_held_messages',
  (s) => `
  select (select count(*) from ${s}.pgqrs_messages m
    where m.queue_id = $1 and m.consumer_worker_id = w.id and m.archived_at is null)::int as count
  from ${s}.pgqrs_workers w where w.id = $2 and w.started_at = $3::timestamptz`,
);

export interface Claim {
  queueId: Id;
  limit: number;
  maxReadCount: number;
  foreignLeases: ForeignLeases;
  worker: Incarnation;
  lockSeconds: number;
}

interface ClaimedRow<T> {
  /** Null in the one row that says that there was nothing to claim. */
  id: Id | null;
  payload: T;
  readCount: number;
  producerWorkerId: Id | null;
  vt: number;
  enqueuedAt: number;
  dequeuedAt: number;
}

/** @returns the claimed messages in the order of their being due; nothing when the worker is fenced */
export async function claimMessages<T>(on: Queryable, claim: Claim): Promise<StoredMessage<T>[] | undefined> {
  const { queueId, limit, maxReadCount, foreignLeases, worker, lockSeconds } = claim;
  const rows = await on.query<ClaimedRow<T>>(CLAIM(on.schema), [
    queueId,
    limit,
    maxReadCount,
    foreignLeases,
    worker.id,
    worker.incarnation,
    lockSeconds,
  ]);
  if (rows.length === 0) return undefined;
  return rows
    .filter((row): row is ClaimedRow<T> & { id: Id } => row.id !== null)
    .map((row) => ({
      ...row,
      vt: date(row.vt),
      enqueuedAt: date(row.enqueuedAt),
      dequeuedAt: date(row.dequeuedAt),
      queueId,
      consumerWorkerId: worker.id,
      archivedAt: null,
    }));
}

/** @returns ms until the next message is due, 0 when one is; nothing when none is waiting */
export async function nextDueMs(
  on: Queryable,
  { queueId, maxReadCount, foreignLeases }: Pick<Claim, 'queueId' | 'maxReadCount' | 'foreignLeases'>,
): Promise<number | undefined> {
  const [row] = await on.query<{ ms: number }>(NEXT_DUE(on.schema), [queueId, maxReadCount, foreignLeases]);
  return row?.ms;
}

/** @returns how many messages of the queue the worker has not settled, expired ones too; nothing when it is fenced */
export async function countHeldMessages(
  on: Queryable,
  queueId: Id,
  { id, incarnation }: Incarnation,
): Promise<number | undefined> {
  const [row] = await on.query<{ count: number }>(COUNT_HELD(on.schema), [queueId, id, incarnation]);
  return row?.count;
}

/** What a worker does to deliveries that it holds. */
export type Settle = (on: Queryable, worker: Incarnation, held: readonly Delivery[]) => Promise<boolean[]>;

export const archiveMessages: Settle = (on, worker, held) => settle(ARCHIVE, on, worker, held);
export const deleteMessages: Settle = (on, worker, held) => settle(DELETE, on, worker, held);
export const giveBackMessages: Settle = (on, worker, held) => settle(GIVE_BACK, on, worker, held);
export const releaseMessages =
  (delaySeconds: number): Settle =>
  (on, worker, held) =>
    settle(RELEASE, on, worker, held, delaySeconds);
export const extendMessages =
  (seconds: number): Settle =>
  (on, worker, held) =>
    settle(EXTEND, on, worker, held, seconds);

/** @returns for each, in input order, whether the worker held that delivery */
async function settle(
  text: (schema: string) => string,
  on: Queryable,
  worker: Incarnation,
  held: readonly Delivery[],
  ...more: readonly number[]
): Promise<boolean[]> {
  const ids = held.map(({ id }) => id);
  const counts = held.map(({ readCount }) => readCount);
  const rows = await on.query<{ id: Id; readCount: number }>(text(on.schema), [
    ids,
    counts,
    worker.id,
    worker.incarnation,
    ...more,
  ]);
  const settled = new Map(rows.map(({ id, readCount }) => [id, readCount]));
  return held.map(
    ({ id, readCount }) => settled.has(id) && (readCount ?? settled.get(id)) === settled.get(id),
  );
}
