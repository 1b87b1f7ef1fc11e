import type { Queryable, Session } from '../db.js';
import type { ForeignLeases, Id, StoredMessage } from '../types.js';
import { areIn, namesOf, type SettledBy, type Settlement, settling, unlessAll } from './settle.js';
import { prepared, statement } from './statement.js';
import { date, seconds } from './time.js';
import type { Incarnation } from './workers.js';

/** The lease, if there ever was one, was given back or is one of ours, which comes back by itself when it expires. */
const unleasedOrOurs = (s: string) => `m.consumer_worker_id is null
  or exists (select from ${s}.sluice_workers ours where ours.worker_id = m.consumer_worker_id)`;

/**
 * Whether a message that is due may be taken: not while a foreign worker, which never renews, may still be at it.
 * How long that is, is a policy. Looked at only where a lease has expired.
 * @param policy an expression of text: 'never', 'stale' or 'expired'
 */
export const takeable = (s: string, policy: string) => `(
  ${unleasedOrOurs(s)}
  or ${policy} = 'expired'
  or (${policy} = 'stale' and m.vt <= now() - interval '60 seconds' and exists (
    select from ${s}.pgqrs_workers w where w.id = m.consumer_worker_id and w.heartbeat_at <= now() - interval '60 seconds')))`;

const unpaused = (s: string, queue: string) =>
  `not exists (select from ${s}.sluice_queues q where q.queue_id = ${queue} and q.paused_at is not null)`;

/** Where to begin in the order of being due: behind `$8, $9`, or where that is null at the beginning. */
const BEHIND_FLOOR = `(m.vt, m.id) >
      (coalesce(timestamptz 'epoch' + $8::int8 * interval '1 microsecond', '-infinity'), coalesce($9::int8, 0))`;

/** Of the parameters that are settled along with a claim. */
const NAMES = { ids: '$10', counts: '$11', worker: '$5', incarnation: '$6' };

/**
 * The pick is materialised (an `id in (… limit …)` may be planned as a scan of everything) and its rows are reached by
 * ctid: they are locked in the same statement and cannot move. The last join brings back the order, since UPDATE
 * returns rows in heap order. `me` pins the claiming worker in its incarnation: where it is not, the worker is fenced.
 * Changing `origin` tells the trigger on foreign claims that this one has checked already.
 *
 * With `by`, messages are settled in the same statement, before the pick: it depends on them, or PostgreSQL would run
 * it first and claim again what is settled here if its lease has just expired.
 *
 * The first row is about the statement: the worker if it lives, the end of the leases, the last place that was picked,
 * and what was settled.
 */
const claim = (by?: SettledBy) =>
  statement(
    by ? `claim_messages_and_${by}` : 'claim_messages',
    (s) => `
  with ${by ? `settled as (${settling[by](s, NAMES)}),` : ''}
  me as materialized (
    select id from ${s}.pgqrs_workers where id = $5 and started_at = $6::timestamptz for key share),
  picked as materialized (
    select m.ctid as at, m.id, m.vt from ${s}.pgqrs_messages m
    where exists (select from me) and ${unpaused(s, '$1')} ${by ? 'and (select count(*) from settled) >= 0' : ''}
      and m.queue_id = $1 and m.vt <= now() and ${BEHIND_FLOOR}
      and m.archived_at is null and m.read_ct < $3 and ${takeable(s, '$4')}
    order by m.vt, m.id limit $2 for update of m skip locked),
  claimed as (
    update ${s}.pgqrs_messages m
    set vt = now() + $7 * interval '1 second', read_ct = read_ct + 1, consumer_worker_id = $5,
      dequeued_at = coalesce(dequeued_at, now()), origin = case origin when 1 then 2 else 1 end
    where m.ctid = any (array(select at from picked))
    returning id, payload, vt, enqueued_at, read_ct, dequeued_at, producer_worker_id)
  select r.id::text as id, r.payload, r.read_ct as "readCount", r.worker::text as worker,
    ${seconds('r.enqueued_at')} as "enqueuedAt", ${seconds('r.dequeued_at')} as "dequeuedAt", r.settled
  from (
    select place.id, null::jsonb as payload,
      (select least(sum(pg_column_size(payload)), 2147483647)::int4 from claimed) as read_ct, (select id from me) as worker,
      place.vt as enqueued_at, now() + $7 * interval '1 second' as dequeued_at,
      ${by ? `(${unlessAll('settled', NAMES.ids)})` : 'null::text[]'} as settled, null::timestamptz as vt
    from (select 1) one left join (select id, vt from picked order by vt desc, id desc limit 1) place on true
    union all
    select id, payload, read_ct, producer_worker_id, enqueued_at, dequeued_at, null, picked.vt
    from picked join claimed using (id)) r
  order by r.vt nulls first, r.id`,
  );

const CLAIM = claim();
const CLAIM_AND = { archive: claim('archive'), delete: claim('delete') };

/** When the next message will be due, in ms from now: a delay that ends, or a lease that expires. */
const NEXT_DUE = statement(
  'next_due',
  (s) => `
  select greatest(0, ${seconds('m.vt')} - ${seconds('now()')}) * 1000 as ms from ${s}.pgqrs_messages m
  where m.queue_id = $1 and m.vt is not null and m.archived_at is null and m.read_ct < $2
    and (${unleasedOrOurs(s)} or $3 = 'expired') and ${unpaused(s, '$1')}
  order by m.vt, m.id limit 1`,
);

/** What a consumer may claim. */
export interface Claimable {
  queueId: Id;
  maxReadCount: number;
  foreignLeases: ForeignLeases;
}

/** A place in the order of being due; exact, unlike a Date. */
export interface Place {
  dueMicros: number;
  id: Id;
}

export interface Claim extends Claimable {
  limit: number;
  worker: Incarnation;
  lockSeconds: number;
  /** Only messages behind this place. */
  floor: Place | undefined;
  /** What is settled along with it. */
  settlement?: Settlement | undefined;
}

export interface Claimed<T> {
  /** In the order of their being due. Nothing: the worker is fenced. */
  messages: StoredMessage<T>[] | undefined;
  /** Of the payloads together, as they are stored. */
  bytes: number;
  /** Where the last one was in the order. */
  last: Place | undefined;
  /** For each that was to be settled, in input order, whether the worker held it. */
  settled: boolean[];
}

interface ClaimedRow<T> {
  id: Id;
  payload: T;
  readCount: number;
  worker: Id | null;
  enqueuedAt: number;
  dequeuedAt: number;
}

/** The first row: its columns are those of the others, and mean something else. */
interface HeadRow {
  /** The claiming worker; null where it is fenced. */
  worker: Id | null;
  /** The last place. */
  id: Id | null;
  enqueuedAt: number | null;
  /** When the leases end. */
  dequeuedAt: number;
  /** Bytes of the payloads as they are stored. */
  readCount: number | null;
  settled: string[] | null;
}

export async function claimMessages<T>(on: Queryable | Session, claim: Claim): Promise<Claimed<T>> {
  const { queueId, limit, maxReadCount, foreignLeases, worker, lockSeconds, floor, settlement } = claim;
  const text = settlement ? CLAIM_AND[settlement.by] : CLAIM;
  const rows = await prepared<HeadRow | ClaimedRow<T>>(on, text(on.schema), [
    ...[queueId, limit, maxReadCount, foreignLeases, worker.id, worker.incarnation, lockSeconds],
    ...[floor?.dueMicros ?? null, floor?.id ?? null],
    ...(settlement ? namesOf(settlement.held) : []),
  ]);
  const head = rows.shift() as HeadRow;
  const vtMs = date(head.dequeuedAt).getTime();
  return {
    messages:
      head.worker === null
        ? undefined
        : (rows as ClaimedRow<T>[]).map((row) => ({
            id: row.id,
            queueId,
            payload: row.payload,
            vt: new Date(vtMs),
            enqueuedAt: date(row.enqueuedAt),
            readCount: row.readCount,
            dequeuedAt: date(row.dequeuedAt),
            producerWorkerId: row.worker,
            consumerWorkerId: worker.id,
            archivedAt: null,
          })),
    bytes: head.readCount ?? 0,
    last:
      head.id === null || !Number.isFinite(head.enqueuedAt)
        ? undefined
        : { dueMicros: Math.round((head.enqueuedAt ?? 0) * 1e6), id: head.id },
    settled: settlement ? areIn(head.settled, settlement.held) : [],
  };
}

/** @returns ms until the next message is due, 0 when one is; nothing when none is waiting */
export async function nextDueMs(
  on: Queryable | Session,
  { queueId, maxReadCount, foreignLeases }: Claimable,
): Promise<number | undefined> {
  const [row] = await prepared<{ ms: number }>(on, NEXT_DUE(on.schema), [
    queueId,
    maxReadCount,
    foreignLeases,
  ]);
  return row?.ms;
}
