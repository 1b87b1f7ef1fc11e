import type { Queryable } from '../db.js';
import type { Id, WorkerStatus } from '../types.js';
import { statement } from './statement.js';

/**
 * `started_at` is a registration's incarnation. It travels as text, since a Date would cut its microseconds,
 * and in UTC ISO form, which every session reads alike whatever its TimeZone and DateStyle.
 */
const INCARNATION = `to_char(started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;

/** One statement: a new name, a stopped one again, or a stale one taken over, keeping its id. Anything else is refused. */
const REGISTER_WORKER = statement(
  'register_worker',
  (s) => `
  with registered as (
    insert into ${s}.pgqrs_workers as w (name, queue_id) values ($1, $2)
    on conflict (name) do update set queue_id = excluded.queue_id, started_at = now(), heartbeat_at = now(),
      shutdown_at = null, status = 'ready'
      where w.status = 'stopped' or w.heartbeat_at < now() - $3 * interval '1 second'
    returning id, started_at),
  marked as (insert into ${s}.sluice_workers (worker_id) select id from registered on conflict do nothing)
  select id::text, ${INCARNATION} as incarnation from registered`,
);
const SELECT_STATUS_BY_NAME = statement(
  'select_worker_status_by_name',
  (s) => `select status::text as status from ${s}.pgqrs_workers where name = $1`,
);
const BEAT = statement(
  'heartbeat',
  (s) => `
  update ${s}.pgqrs_workers set heartbeat_at = now() where id = $1 and started_at = $2::timestamptz
  returning status::text as status`,
);
const SELECT_WORKER = statement(
  'select_worker',
  (s) => `
  select status::text as status, extract(epoch from now() - heartbeat_at)::float8 as "heartbeatAgeSeconds"
  from ${s}.pgqrs_workers where id = $1 and started_at = $2::timestamptz`,
);
/** Compare and set: only from one of the states that allow it, so two racing transitions can't both happen. */
const MOVE_WORKER = statement(
  'move_worker',
  (s) => `
  update ${s}.pgqrs_workers set status = $3::text::${s}.worker_status,
    shutdown_at = case when $3 = 'stopped' then now() else shutdown_at end
  where id = $1 and started_at = $2::timestamptz and status::text = any($4::text[])
  returning status::text as status`,
);
const DELETE_WORKER = statement(
  'delete_worker',
  (s) => `delete from ${s}.pgqrs_workers where id = $1 returning id`,
);
/**
 * Ledger rows of anonymous streams whose process is gone: its worker stopped, or silent for longer than any heartbeat
 * interval. A row that a half-dead backend still holds is left for the next sweep: registering must not wait for it.
 */
const SWEEP_STREAMS = statement(
  'sweep_streams',
  (s) => `
  delete from ${s}.sluice_streams where id in (
    select t.id from ${s}.sluice_streams t join ${s}.pgqrs_workers w on w.id = t.worker_id
    where w.status = 'stopped' or w.heartbeat_at < now() - interval '1 day'
    for update of t skip locked)`,
);

/** One life of a worker: its row and when it started. */
export interface Incarnation {
  id: Id;
  incarnation: string;
}

/** @returns nothing when a live worker has that name */
export async function registerWorker(
  on: Queryable,
  name: string,
  queueId: Id | null,
  staleAfterSeconds: number,
): Promise<Incarnation | undefined> {
  const [row] = await on.query<Incarnation>(REGISTER_WORKER(on.schema), [name, queueId, staleAfterSeconds]);
  return row;
}

export async function selectStatusByName(on: Queryable, name: string): Promise<WorkerStatus | undefined> {
  const [row] = await on.query<{ status: WorkerStatus }>(SELECT_STATUS_BY_NAME(on.schema), [name]);
  return row?.status;
}

/** @returns the status that the row has now, or nothing when the incarnation is over */
export async function beat(
  on: Queryable,
  { id, incarnation }: Incarnation,
): Promise<WorkerStatus | undefined> {
  const [row] = await on.query<{ status: WorkerStatus }>(BEAT(on.schema), [id, incarnation]);
  return row?.status;
}

export async function selectWorker(
  on: Queryable,
  { id, incarnation }: Incarnation,
): Promise<{ status: WorkerStatus; heartbeatAgeSeconds: number } | undefined> {
  const [row] = await on.query<{ status: WorkerStatus; heartbeatAgeSeconds: number }>(
    SELECT_WORKER(on.schema),
    [id, incarnation],
  );
  return row;
}

/** @returns whether the worker moved: it was in one of the states `from` */
export async function moveWorker(
  on: Queryable,
  { id, incarnation }: Incarnation,
  from: readonly WorkerStatus[],
  to: WorkerStatus,
): Promise<boolean> {
  const rows = await on.query(MOVE_WORKER(on.schema), [id, incarnation, to, from]);
  return rows.length === 1;
}

/** @returns whether there was such a worker; raises 23503 while messages refer to it */
export async function deleteWorker(on: Queryable, id: Id): Promise<boolean> {
  return (await on.query(DELETE_WORKER(on.schema), [id])).length === 1;
}

export async function sweepStreams(on: Queryable): Promise<void> {
  await on.query(SWEEP_STREAMS(on.schema));
}
