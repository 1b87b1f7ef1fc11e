import type { Queryable, Session } from '../db.js';
import type { Id } from '../types.js';
import { takeKeysFrom } from './dedupe.js';
import type { Due } from './scheduled.js';
import { prepared, statement } from './statement.js';
import { micros, timestamp } from './time.js';
import type { Incarnation } from './workers.js';

/** When a row is due: a time that has passed means now, so that the message lines up behind those that are due already. */
const DUE = `case when due_at is null then now() + coalesce(delay, 0) * interval '1 second'
    else greatest(now(), due_at) end`;

/**
 * One array per column: the number of parameters never depends on the number of rows.
 * @param pinned what must be there before the first row
 */
export const insertRows = (s: string, pinned = '') => `
  insert into ${s}.pgqrs_messages (queue_id, producer_worker_id, origin, vt, payload)
  select $1, $2, 1, ${DUE}, payload
  from ${pinned} unnest($3::jsonb[], $4::float8[], $5::timestamptz[]) as item (payload, delay, due_at)`;

/** Undoes the statement where a trigger or a rule of somebody else's has left rows out. */
const allIn = (s: string, sent: string) =>
  `(select case when (select count(*) from inserted) = (${sent}) then true else ${s}.sluice_rows_missing() end)`;

/** The pin drives the insert: without it no row. Ids ascend in input order, and rows come back in it. */
const enqueueText = (s: string, first: string, from: string) => `
  with ${first}pinned as materialized (select ${s}.sluice_pin($1::bigint, $2::bigint, $6::timestamptz)),
  inserted as (${insertRows(s, from)} returning id)
  select id::text as id, ${micros('now()')}::text as at
  from inserted where ${allIn(s, 'pg_catalog.cardinality($3::jsonb[])')}`;

const ENQUEUE = statement('enqueue', (s) => enqueueText(s, '', 'pinned,'));

/** For a transaction of the caller's: nobody else knows when that commits. */
const ENQUEUE_AND_NOTIFY = statement('enqueue', (s) =>
  enqueueText(s, "told as materialized (select pg_notify($7, '')), ", 'pinned, told,'),
);

/**
 * Rows with keys go in only where their keys are free, which are taken in the same statement. Answers with the ids in
 * input order, and then with the keys that were free.
 */
const onceText = (s: string, first: string, from: string) => `
  with ${first}pinned as materialized (select ${s}.sluice_pin($1::bigint, $2::bigint, $6::timestamptz)),
  item as materialized (
    select * from unnest($3::jsonb[], $4::float8[], $5::timestamptz[], $7::text[], $8::float8[])
      with ordinality as item (payload, delay, due_at, key, window_seconds, place)),
  fresh as (${takeKeysFrom(s, 'window_seconds', `${from} item where key is not null`)}),
  inserted as (
    insert into ${s}.pgqrs_messages (queue_id, producer_worker_id, origin, vt, payload)
    select $1, $2, 1, ${DUE}, payload
    from ${from} item where key is null or key in (select key from fresh) order by place returning id)
  select id::text as id, ${micros('now()')}::text as at, null as key from inserted
  where ${allIn(s, 'select count(*) from item where key is null or key in (select key from fresh)')}
  union all select null, null, key from fresh`;

const ENQUEUE_ONCE = statement('enqueue_once', (s) => onceText(s, '', 'pinned,'));
const ENQUEUE_ONCE_AND_NOTIFY = statement('enqueue_once', (s) =>
  onceText(s, "told as materialized (select pg_notify($9, '')), ", 'pinned, told,'),
);

export interface Enqueue {
  queueId: Id;
  worker: Incarnation;
  /** A jsonb[] in binary format. */
  payloads: Buffer;
  /** When each is due. */
  dues: readonly Due[];
  /** What keeps the like of each out, and for how long; null: nothing keeps any of them out. Each key once. */
  once: readonly ({ key: string; windowSeconds: number } | undefined)[] | null;
  /** Where consumers are told, by the transaction itself. */
  channel: string | null;
}

export interface Enqueued {
  /** Of those that are in, in input order. */
  ids: Id[];
  /** When they were enqueued, in microseconds since 1970. */
  atMicros: bigint;
  /** Keys that were free. */
  fresh: ReadonlySet<string>;
}

interface Row {
  id: Id | null;
  at: string | null;
  key?: string | null;
}

/** Raises `RAISED.queueGone`, `workerGone` or `rowsMissing`, and then has inserted nothing. */
export async function enqueue(on: Queryable | Session, enqueue: Enqueue): Promise<Enqueued> {
  const { queueId, worker, payloads, dues, once, channel } = enqueue;
  const [plain, notifying] = once ? [ENQUEUE_ONCE, ENQUEUE_ONCE_AND_NOTIFY] : [ENQUEUE, ENQUEUE_AND_NOTIFY];
  const rows = await prepared<Row>(on, (channel === null ? plain : notifying)(on.schema), [
    ...[queueId, worker.id, payloads, delaysOf(dues), timesOf(dues), worker.incarnation],
    ...(once ? [once.map((row) => row?.key), once.map((row) => row?.windowSeconds)] : []),
    ...(channel === null ? [] : [channel]),
  ]);
  const notNull = <T>(value: T | null | undefined): value is T => value !== null && value !== undefined;
  return {
    ids: rows.map(({ id }) => id).filter(notNull),
    atMicros: BigInt(rows[0]?.at ?? 0),
    fresh: new Set(rows.map(({ key }) => key).filter(notNull)),
  };
}

/** @returns null where none waits */
function delaysOf(dues: readonly Due[]): (number | null)[] | null {
  const delays = dues.map((due) => ('at' in due ? null : due.delaySeconds));
  return delays.some((delay) => delay) ? delays : null;
}

/** @returns null where none has a time of its own */
function timesOf(dues: readonly Due[]): (string | null)[] | null {
  return dues.some((due) => 'at' in due) ? dues.map((due) => ('at' in due ? timestamp(due.at) : null)) : null;
}
