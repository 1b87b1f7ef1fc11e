import type { Queryable } from '../db.js';
import type { Id, WorkerInfo, WorkerStatus } from '../types.js';
import { statement } from './statement.js';
import { date, seconds } from './time.js';

/**
 * `started_at` is a registration's incarnation. It travels as text, since a Date would cut its microseconds,
 * and in UTC ISO form, which every session reads alike whatever its TimeZone and DateStyle.
 */
const INCARNATION = `to_char(started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;

/** The row `$1`, and only in its incarnation `$2` unless that is null. */
const IS_MEANT = `id = $1 and ($2::timestamptz is null or started_at = $2::timestamptz)`;

const INFO = `id::text as id, name, queue_id::text as "queueId", status::text as status,
  ${seconds('started_at')} as "startedAt", ${seconds('heartbeat_at')} as "heartbeatAt",
  ${seconds('shutdown_at')} as "shutdownAt"`;

/** One statement: a new name, a stopped one again, or a stale one taken over, keeping its id. Anything else is refused. */
const REGISTER_WORKER = statement(
  'register_worker',
  (s) => `
  with registered as (
    insert into ${s}.pgqrs_workers as w (name, queue_id) values ($1, $2)
    on conflict (name) do update set queue_id = excluded.queue_id, started_at = now(), heartbeat_at = now(),
      shutdown_at = null, status = 'ready'
      where w.status::text = 'stopped' or w.heartbeat_at < now() - $3::float8 * interval '1 second'
    returning id, started_at),
  marked as (insert into ${s}.sluice_workers (worker_id) select id from registered on conflict do nothing)
  select id::text, ${INCARNATION} as incarnation from registered`,
);
const SELECT_STATUS_BY_NAME = statement(
  'select_worker_status_by_name',
  (s) => `select status::text as status from ${s}.pgqrs_workers where name = $1`,
);
/** Neither a disk nor a synchronous standby is waited for: a beat that is lost in a crash is nothing, a late one is. */
const BEAT = statement(
  'heartbeat',
  (s) => `
  update ${s}.pgqrs_workers w set heartbeat_at = now()
  from set_config('synchronous_commit', 'off', true), unnest($1::bigint[], $2::timestamptz[]) as meant (id, incarnation)
  where w.id = meant.id and (meant.incarnation is null or w.started_at = meant.incarnation)
  returning w.id::text as id, w.status::text as status`,
);
const SELECT_WORKER = statement(
  'select_worker',
  (s) => `
  select ${INFO}, ${seconds('now()')} - ${seconds('heartbeat_at')} as "heartbeatAgeSeconds"
  from ${s}.pgqrs_workers where ${IS_MEANT}`,
);
const LIST_WORKERS = statement(
  'list_workers',
  (s) => `
  select ${INFO} from ${s}.pgqrs_workers
  where ($1::bigint is null or queue_id = $1)
    and ($2::float8 is null or status::text <> 'stopped' and heartbeat_at < now() - $2::float8 * interval '1 second')
  order by started_at desc nulls last, id desc`,
);
/**
 * Compare and set: only from one of the states that allow it, so two racing transitions can't both happen. The row is
 * locked first, so that the state it was in is told as exactly; no more strongly than an update locks it, or it would
 * wait for batches, which pin their worker while they last.
 */
const MOVE_WORKER = statement(
  'move_worker',
  (s) => `
  with found as materialized (
    select id, status::text as status from ${s}.pgqrs_workers where ${IS_MEANT} for no key update),
  moved as (
    update ${s}.pgqrs_workers w set status = $3::text::${s}.worker_status,
      shutdown_at = case when $3 = 'stopped' then now() else w.shutdown_at end
    from found where w.id = found.id and found.status = any($4::text[])
    returning w.id)
  select status as "from", exists (select from moved) as moved from found`,
);
const DELETE_WORKER = statement(
  'delete_worker',
  (s) => `delete from ${s}.pgqrs_workers where id = $1 returning id`,
);
/**
 * Ledger rows of anonymous streams whose process is gone: its worker stopped, silent for longer than any heartbeat
 * interval, or `$1`, which has just begun anew: what it had before its start is of another life. A row that a half-dead backend still holds is left for the next sweep: registering must not wait for it.
 */
const SWEEP_STREAMS = statement(
  'sweep_streams',
  (s) => `
  delete from ${s}.sluice_streams where id in (
    select t.id from ${s}.sluice_streams t join ${s}.pgqrs_workers w on w.id = t.worker_id
    where w.status::text = 'stopped' or w.heartbeat_at < now() - interval '1 day'
      or w.id = $1::bigint and t.updated_at < w.started_at
    for update of t skip locked)`,
);

/** A worker's row: in one of its lives, or with null whichever it is in. */
export interface WorkerRef {
  id: Id;
  incarnation: string | null;
}

/** One life of a worker: its row and when it started. */
export interface Incarnation extends WorkerRef {
  incarnation: string;
}

/** A row as the driver brings it. */
interface InfoRow extends Omit<WorkerInfo, 'startedAt' | 'heartbeatAt' | 'shutdownAt'> {
  startedAt: number;
  heartbeatAt: number;
  shutdownAt: number | null;
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

/** @returns the status of each row that is there, by its id */
export async function beat(on: Queryable, workers: readonly WorkerRef[]): Promise<Map<Id, WorkerStatus>> {
  const values = [workers.map(({ id }) => id), workers.map(({ incarnation }) => incarnation)];
  const rows = await on.query<{ id: Id; status: WorkerStatus }>(BEAT(on.schema), values);
  return new Map(rows.map(({ id, status }) => [id, status]));
}

/** @returns nothing when the row is gone */
export async function selectWorker(
  on: Queryable,
  { id, incarnation }: WorkerRef,
): Promise<{ info: WorkerInfo; heartbeatAgeSeconds: number } | undefined> {
  const [row] = await on.query<InfoRow & { heartbeatAgeSeconds: number }>(SELECT_WORKER(on.schema), [
    id,
    incarnation,
  ]);
  if (!row) return undefined;
  const { heartbeatAgeSeconds, ...info } = row;
  return { info: asInfo(info), heartbeatAgeSeconds };
}

export async function selectWorkerInfo(on: Queryable, id: Id): Promise<WorkerInfo | undefined> {
  return (await selectWorker(on, { id, incarnation: null }))?.info;
}

/**
 * All workers, or those of one queue, or those that should be there but have been silent for that long; the newest
 * registration first.
 */
export async function listWorkers(
  on: Queryable,
  queueId?: Id | null,
  staleForSeconds?: number,
): Promise<WorkerInfo[]> {
  const rows = await on.query<InfoRow>(LIST_WORKERS(on.schema), [queueId ?? null, staleForSeconds ?? null]);
  return rows.map(asInfo);
}

/** @returns the state it was in and whether it moved, since that is one of `from`; nothing when the row is gone */
export async function moveWorker(
  on: Queryable,
  { id, incarnation }: WorkerRef,
  from: readonly WorkerStatus[],
  to: WorkerStatus,
): Promise<{ from: WorkerStatus; moved: boolean } | undefined> {
  const [row] = await on.query<{ from: WorkerStatus; moved: boolean }>(MOVE_WORKER(on.schema), [
    id,
    incarnation,
    to,
    from,
  ]);
  return row;
}

export async function deleteWorker(on: Queryable, id: Id): Promise<boolean> {
  return (await on.query(DELETE_WORKER(on.schema), [id])).length === 1;
}

/** @param self a worker that has just registered */
export async function sweepStreams(on: Queryable, self: Id): Promise<void> {
  await on.query(SWEEP_STREAMS(on.schema), [self]);
}

function asInfo({ startedAt, heartbeatAt, shutdownAt, ...row }: InfoRow): WorkerInfo {
  return {
    ...row,
    startedAt: date(startedAt),
    heartbeatAt: date(heartbeatAt),
    shutdownAt: shutdownAt === null ? null : date(shutdownAt),
  };
}
