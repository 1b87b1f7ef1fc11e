import type { Queryable } from '../db.js';
import type { ForeignLeases, Id, StoredMessage } from '../types.js';
import { statement } from './statement.js';
import type { Incarnation } from './workers.js';

/** One delivery of a message: renewals change `vt`, so only the count tells it from the next one. */
export interface Delivery {
  id: Id;
  /** Null: whichever delivery the worker holds, as pgqrs' calls by id mean it. */
  readCount: number | null;
}

/**
 * Whether a message that is due may be claimed although its last lease was never given back. Ours come back by
 * themselves; those of foreign workers, which never renew, by policy ($4). Evaluated only for leases that have expired.
 */
const claimable = (s: string) => `(
  m.consumer_worker_id is null
  or exists (select from ${s}.sluice_workers ours where ours.worker_id = m.consumer_worker_id)
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
  select claimed.id::text as id, claimed.payload, claimed.vt, claimed.enqueued_at as "enqueuedAt",
    claimed.read_ct as "readCount", claimed.dequeued_at as "dequeuedAt",
    claimed.producer_worker_id::text as "producerWorkerId"
  from me left join (picked join claimed using (id)) on true
  order by picked.vt, picked.id`,
);

/** When the next message will be due, in ms from now: a delay that ends, or a lease of ours that expires. */
const NEXT_DUE = statement(
  'next_due',
  (s) => `
  select greatest(0, extract(epoch from m.vt - now()) * 1000)::float8 as ms from ${s}.pgqrs_messages m
  where m.queue_id = $1 and m.archived_at is null and m.read_ct < $2 and (
    m.consumer_worker_id is null
    or exists (select from ${s}.sluice_workers ours where ours.worker_id = m.consumer_worker_id))
  order by m.vt, m.id limit 1`,
);

/** `$1, $2` name deliveries, `$3` the worker that holds them. */
const onDeliveries = (name: string, write: (s: string) => string) =>
  statement(
    name,
    (s) => `
  with wanted as (select * from unnest($1::bigint[], $2::int[]) as w (id, read_ct)),
  done as (
    ${write(s)} wanted
    where m.id = wanted.id and m.consumer_worker_id = $3 and m.archived_at is null
      and (wanted.read_ct is null or m.read_ct = wanted.read_ct)
    returning m.id)
  select id::text as id from done`,
  );

const ARCHIVE = onDeliveries(
  'archive_messages',
  (s) => `update ${s}.pgqrs_messages m set archived_at = now() from`,
);
const DELETE = onDeliveries('delete_messages', (s) => `delete from ${s}.pgqrs_messages m using`);
const RELEASE = onDeliveries(
  'release_messages',
  (s) =>
    `update ${s}.pgqrs_messages m set vt = now() + $4 * interval '1 second', consumer_worker_id = null from`,
);
/** Never handed out, so not counted as a delivery. */
const GIVE_BACK = onDeliveries(
  'give_back_messages',
  (s) =>
    `update ${s}.pgqrs_messages m set vt = now(), read_ct = m.read_ct - 1, consumer_worker_id = null from`,
);
/** Adds to what is left of the lease: never shortens it, never extends into the past. */
const EXTEND = onDeliveries(
  'extend_messages',
  (s) => `update ${s}.pgqrs_messages m set vt = greatest(m.vt, now()) + $4 * interval '1 second' from`,
);

export interface Claim {
  queueId: Id;
  limit: number;
  maxReadCount: number;
  foreignLeases: ForeignLeases;
  worker: Incarnation;
  lockSeconds: number;
}

/** @returns the claimed messages in the order of their being due; nothing when the worker is fenced */
export async function claimMessages<T>(on: Queryable, claim: Claim): Promise<StoredMessage<T>[] | undefined> {
  type Row = Omit<StoredMessage<T>, 'id' | 'queueId' | 'consumerWorkerId' | 'archivedAt'> & { id: Id | null };
  const { queueId, limit, maxReadCount, foreignLeases, worker, lockSeconds } = claim;
  const rows = await on.query<Row>(CLAIM(on.schema), [
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
    .filter((row): row is Row & { id: Id } => row.id !== null)
    .map((row) => ({ ...row, queueId, consumerWorkerId: worker.id, archivedAt: null }));
}

/** @returns ms until the next message is due, 0 when one is; nothing when none is waiting */
export async function nextDueMs(
  on: Queryable,
  queueId: Id,
  maxReadCount: number,
): Promise<number | undefined> {
  const [row] = await on.query<{ ms: number }>(NEXT_DUE(on.schema), [queueId, maxReadCount]);
  return row?.ms;
}

const answered = async (
  text: (schema: string) => string,
  queryable: Queryable,
  worker: Incarnation,
  deliveries: readonly Delivery[],
  ...more: readonly unknown[]
): Promise<boolean[]> => {
  const ids = deliveries.map(({ id }) => id);
  const counts = deliveries.map(({ readCount }) => readCount);
  const done = await queryable.query<{ id: Id }>(text(queryable.schema), [ids, counts, worker.id, ...more]);
  const found = new Set(done.map(({ id }) => id));
  return ids.map((id) => found.has(id));
};

/** Each of these answers, in input order, whether the worker held that delivery. */
export const archiveMessages = (queryable: Queryable, worker: Incarnation, deliveries: readonly Delivery[]) =>
  answered(ARCHIVE, queryable, worker, deliveries);
export const deleteMessages = (queryable: Queryable, worker: Incarnation, deliveries: readonly Delivery[]) =>
  answered(DELETE, queryable, worker, deliveries);
export const releaseMessages = (
  queryable: Queryable,
  worker: Incarnation,
  deliveries: readonly Delivery[],
  delaySeconds: number,
) => answered(RELEASE, queryable, worker, deliveries, delaySeconds);
export const extendMessages = (
  queryable: Queryable,
  worker: Incarnation,
  deliveries: readonly Delivery[],
  seconds: number,
) => answered(EXTEND, queryable, worker, deliveries, seconds);
export const giveBackMessages = (
  queryable: Queryable,
  worker: Incarnation,
  deliveries: readonly Delivery[],
) => answered(GIVE_BACK, queryable, worker, deliveries);
