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

/**
 * The pin drives the insert: without it no row. Ids ascend in input order, and one row answers for all of them, since
 * rows are what costs on the way back. `$6` is the channel for a caller whose own transaction this is.
 */
const ENQUEUE = statement(
  'enqueue',
  (s) => `
  with pinned as materialized (select ${s}.sluice_pin($1::bigint, $2::bigint, $5::timestamptz)),
  inserted as (${insertRows(s, 'pinned,')} returning id)
  select string_agg(id::text, ',' order by id) as ids, (extract(epoch from now()) * 1000000)::int8::text as "atMicros",
    case when $6::text is not null then pg_notify($6, '') end
  from inserted`,
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
export async function enqueue(on: Queryable | Session, { queueId, ...row }: Enqueue): Promise<Enqueued> {
  const values = [queueId, row.worker.id, row.payloads, row.delays, row.worker.incarnation, row.channel];
  const text = ENQUEUE(on.schema);
  const rows = await ('prepared' in on
    ? on.prepared<{ ids: string; atMicros: string }>(text, values)
    : on.query<{ ids: string; atMicros: string }>(text, values));
  const { ids, atMicros } = rows[0] as { ids: string; atMicros: string };
  return { ids: ids.split(','), atMicros: BigInt(atMicros) };
}
