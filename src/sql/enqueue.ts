import type { Queryable, Session } from '../db.js';
import type { Id } from '../types.js';
import { statement } from './statement.js';
import type { Incarnation } from './workers.js';

/**
 * One array per column: the number of parameters never depends on the number of rows.
 * @param pinned what must be there before the first row
 */
export const insertRows = (s: string, pinned = '') => `
  insert into ${s}.pgqrs_messages (queue_id, producer_worker_id, origin, vt, payload)
  select $1, $2, 1, now() + coalesce(delay, 0) * interval '1 second', payload
  from ${pinned} unnest($3::jsonb[], $4::float8[]) as item (payload, delay)`;

/** The pin drives the insert: without it no row. Ids ascend in input order, and rows come back in it. */
const enqueueText = (s: string, first: string, from: string) => `
  with ${first}pinned as materialized (select ${s}.sluice_pin($1::bigint, $2::bigint, $5::timestamptz))
  ${insertRows(s, from)}
  returning id::text as id, (extract(epoch from now()) * 1000000)::int8::text as at`;

const ENQUEUE = statement('enqueue', (s) => enqueueText(s, '', 'pinned,'));

/** For a transaction of the caller's: nobody else knows when that commits. */
const ENQUEUE_AND_NOTIFY = statement('enqueue', (s) =>
  enqueueText(s, "told as materialized (select pg_notify($6, '')), ", 'pinned, told,'),
);

export interface Enqueue {
  queueId: Id;
  worker: Incarnation;
  /** A jsonb[] in binary format. */
  payloads: Buffer;
  /** Seconds until each is due; null: at once, all of them. */
  delays: readonly number[] | null;
  /** Where consumers are told, by the transaction itself. */
  channel: string | null;
}

export interface Enqueued {
  /** In input order. */
  ids: Id[];
  /** When they were enqueued, in microseconds since 1970. */
  atMicros: bigint;
}

/** Raises `RAISED.queueGone` or `workerGone`, and then has inserted nothing. */
export async function enqueue(
  on: Queryable | Session,
  { queueId, worker, payloads, delays, channel }: Enqueue,
): Promise<Enqueued> {
  const values = [queueId, worker.id, payloads, delays, worker.incarnation];
  const rows =
    channel === null
      ? await run(on, ENQUEUE(on.schema), values)
      : await run(on, ENQUEUE_AND_NOTIFY(on.schema), [...values, channel]);
  return { ids: rows.map(({ id }) => id), atMicros: BigInt(rows[0]?.at ?? 0) };
}

function run(on: Queryable | Session, text: string, values: unknown[]): Promise<{ id: Id; at: string }[]> {
  return 'prepared' in on ? on.prepared(text, values) : on.query(text, values);
}
