import type { Queryable, Session } from '../db.js';
import type { Id, Reclaimed, StoredMessage } from '../types.js';
import { statement } from './statement.js';
import { asStored, storedColumns, type StoredRow } from './stored-rows.js';

/** The lock waits for whoever is changing a row, and then the row is asked again: it may have come back to life. */
const STOP_STALE = statement(
  'stop_stale_workers',
  (s) => `
  with stale as materialized (
    select id from ${s}.pgqrs_workers
    where ($1::bigint is null or queue_id = $1) and status::text <> 'stopped'
      and heartbeat_at < now() - $2::float8 * interval '1 second'
    order by id for no key update)
  update ${s}.pgqrs_workers w set status = 'stopped', shutdown_at = now() from stale where w.id = stale.id
  returning w.id::text as id`,
);

/** As pgqrs releases them: the count of deliveries stays. */
const RELEASE_LEASES = statement(
  'release_leases',
  (s) => `
  with released as (
    update ${s}.pgqrs_messages set vt = now(), consumer_worker_id = null
    where consumer_worker_id = any ($1::bigint[]) and archived_at is null returning queue_id)
  select queue_id::text as "queueId", count(*)::float8 as count from released group by queue_id`,
);

const LIST_LEASES = statement(
  'list_leases',
  (s) => `
  select ${storedColumns('m')} from ${s}.pgqrs_messages m
  where m.consumer_worker_id = $1 and m.archived_at is null order by m.vt, m.id limit $2`,
);

/**
 * Nobody can refer to a worker that is locked like this: whoever wants to locks its row too, and then finds it gone. One
 * that somebody has locked is in use.
 */
const LOCK_OLD = statement(
  'lock_old_workers',
  (s) => `
  select id::text as id from ${s}.pgqrs_workers
  where ($1::bigint is null or queue_id = $1) and status::text = 'stopped'
    and heartbeat_at < now() - $2::float8 * interval '1 second'
  order by id for update skip locked`,
);

/** A statement of its own, after the locks: what was committed before them is in its snapshot. */
const DELETE_UNUSED = statement(
  'delete_unused_workers',
  (s) => `
  with used as materialized (
    select distinct pg_catalog.unnest(array[producer_worker_id, consumer_worker_id]) as id from ${s}.pgqrs_messages
    where producer_worker_id = any ($1::bigint[]) or consumer_worker_id = any ($1::bigint[]))
  delete from ${s}.pgqrs_workers w
  where w.id = any ($1::bigint[]) and not exists (select from used where used.id = w.id)
    and not exists (select from ${s}.pgqrs_workflow_runs r where r.worker_id = w.id)
  returning w.id`,
);

/** What was released in each queue. */
export interface Released {
  queueId: Id;
  count: number;
}

/** @param queueId whose workers; null: all */
export async function reclaim(
  session: Session,
  queueId: Id | null,
  olderThanSeconds: number,
): Promise<Reclaimed & { queues: Id[] }> {
  const stopped = await session.query<{ id: Id }>(STOP_STALE(session.schema), [queueId, olderThanSeconds]);
  const workers = stopped.map(({ id }) => id);
  const released = workers.length === 0 ? [] : await releaseLeases(session, workers);
  const messages = released.reduce((sum, { count }) => sum + count, 0);
  return { workers, messages, queues: released.map((of) => of.queueId) };
}

/** Gives back what the workers hold, in whatever queue. Reads all messages. */
export async function releaseLeases(on: Queryable, workerIds: readonly Id[]): Promise<Released[]> {
  return on.query<Released>(RELEASE_LEASES(on.schema), [workerIds]);
}

/** What a worker holds, in whatever queue; what was due first comes first. */
export async function listLeases<T>(on: Queryable, workerId: Id, limit: number): Promise<StoredMessage<T>[]> {
  return (await on.query<StoredRow<T>>(LIST_LEASES(on.schema), [workerId, limit])).map((row) =>
    asStored(row),
  );
}

/** In a transaction at READ COMMITTED. @returns how many workers went */
export async function purgeWorkers(
  session: Session,
  queueId: Id | null,
  olderThanSeconds: number,
): Promise<number> {
  const old = await session.query<{ id: Id }>(LOCK_OLD(session.schema), [queueId, olderThanSeconds]);
  if (old.length === 0) return 0;
  return (await session.query(DELETE_UNUSED(session.schema), [old.map(({ id }) => id)])).length;
}
