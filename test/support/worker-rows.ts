import type { WorkerStatus } from '../../src/index.js';
import type { Scenario } from './scenario.js';

export interface WorkerRow {
  id: string;
  name: string;
  status: WorkerStatus;
  /** Of its heartbeat, in seconds. */
  age: number;
  stopped: boolean;
}

/** A row of pgqrs_workers as it is. */
export async function row({ pool, schema }: Scenario, id: string): Promise<WorkerRow | undefined> {
  const { rows } = await pool.query<WorkerRow>(
    `select id::text, name, status::text, extract(epoch from now() - heartbeat_at)::float8 as age,
       shutdown_at is not null as stopped
     from ${schema}.pgqrs_workers where id = $1`,
    [id],
  );
  return rows[0];
}

/** As somebody else's statement would. */
export async function setStatus({ pool, schema }: Scenario, id: string, status: WorkerStatus): Promise<void> {
  await pool.query(
    `update ${schema}.pgqrs_workers set status = $2::text::${schema}.worker_status where id = $1`,
    [id, status],
  );
}

/** Makes its last heartbeat that old. */
export async function silence({ pool, schema }: Scenario, id: string, seconds: number): Promise<void> {
  await pool.query(
    `update ${schema}.pgqrs_workers set heartbeat_at = now() - $2 * interval '1 second' where id = $1`,
    [id, seconds],
  );
}

/** A worker as pgqrs registers one: with times of its own clock, and unknown to us. @returns its id */
export async function foreignWorker(
  { pool, schema }: Scenario,
  { name, queueId, status = 'ready' }: { name: string; queueId: string | null; status?: WorkerStatus },
): Promise<string> {
  const now = new Date();
  const { rows } = await pool.query<{ id: string }>(
    `insert into ${schema}.pgqrs_workers (name, queue_id, started_at, heartbeat_at, shutdown_at, status)
     values ($1, $2, $3, $4, null, $5::text::${schema}.worker_status) returning id::text`,
    [name, queueId, now, now, status],
  );
  return rows[0]!.id;
}
