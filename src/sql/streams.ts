import type { Queryable } from '../db.js';
import type { Id, IngestStream } from '../types.js';
import { statement } from './statement.js';
import { date, seconds } from './time.js';

/** A client that gave up must not open it when a lock is free at last: its statement gives up before. */
const LOCK_TIMEOUT = "set_config('lock_timeout', $3, true)";
/** Asked twice, because the first answer was lost, it makes one. */
const OPEN_STREAM = statement(
  'open_stream',
  (s) => `
  insert into ${s}.sluice_streams (name, queue_id, worker_id) select $1::text, $2::bigint, $4::bigint from ${LOCK_TIMEOUT}
  on conflict (name) do update set worker_id = excluded.worker_id
  returning id::text, epoch::float8, rows::float8, position`,
);
/** A new run: who ran it before can commit no more. Waits for a batch of theirs that is just committing. */
const RESUME_STREAM = statement(
  'resume_stream',
  (s) => `
  insert into ${s}.sluice_streams as t (name, queue_id) select $1::text, $2::bigint from ${LOCK_TIMEOUT}
  on conflict (name) do update set epoch = t.epoch + 1, seq = 0, updated_at = now() where t.queue_id = excluded.queue_id
  returning id::text, epoch::float8, rows::float8, position`,
);
/**
 * Waits for whoever is about to move it; nobody can until this transaction is over. A write, though it changes nothing:
 * where the row shows what was committed without a synchronous standby, the COMMIT of this one waits for it to be there.
 */
const CONFIRM_STREAM = statement(
  'confirm_stream',
  (s) => `
  update ${s}.sluice_streams set updated_at = updated_at where id = $1
  returning epoch::float8, seq::float8, rows::float8, position`,
);
/**
 * Nothing of this run can commit afterwards, since no batch comes behind a negative one; so what it answers is final.
 * Asked twice it answers the same, and also when the next run has begun but not moved.
 */
const FENCE_STREAM = statement(
  'fence_stream',
  (s) => `
  update ${s}.sluice_streams set seq = case when epoch = $2 and seq >= 0 then -1 - seq else seq end
  where id = $1 and (epoch = $2 or epoch = $2::bigint + 1 and seq = 0)
  returning rows::float8, position`,
);
const DELETE_STREAM = statement(
  'delete_stream',
  (s) => `delete from ${s}.sluice_streams where name = $1 returning id`,
);
/** Nobody waits for it: a row that comes back with a crash is swept when its worker is dead. */
const FORGET_STREAM = statement(
  'forget_stream',
  (s) =>
    `delete from ${s}.sluice_streams using set_config('synchronous_commit', 'off', true) where name = $1`,
);
const LIST_STREAMS = statement(
  'list_streams',
  (s) => `
  select t.name, q.queue_name as queue, t.worker_id is null as resumable, t.epoch::float8 as run,
    (case when t.seq < 0 then -1 - t.seq else t.seq end)::float8 as batches, t.rows::float8 as rows, t.position, ${seconds('t.updated_at')} as "updatedAt"
  from ${s}.sluice_streams t join ${s}.pgqrs_queues q on q.id = t.queue_id
  where $1::text is null or t.name = $1 order by t.updated_at desc, t.id desc`,
);

/** A run of a stream as it begins. */
export interface StreamRun {
  id: Id;
  epoch: number;
  /** Rows that earlier runs have committed. */
  rows: number;
  /** Where they came to in the source; empty when there were none. */
  position: string;
}

/** What the ledger says: the last committed batch, all rows up to it, and the source position behind it. */
export interface LedgerRow {
  epoch: number;
  seq: number;
  rows: number;
  position: string;
}

/** @param lockTimeoutMs how long it waits for whoever is deleting the queue or the worker; not 0 */
export async function openStream(
  on: Queryable,
  name: string,
  queueId: Id,
  workerId: Id,
  lockTimeoutMs: number,
): Promise<StreamRun> {
  const values = [name, queueId, String(lockTimeoutMs), workerId];
  const [row] = await on.query<StreamRun>(OPEN_STREAM(on.schema), values);
  return row as StreamRun;
}

/**
 * @param lockTimeoutMs how long it waits for whoever holds the stream; not 0
 * @returns nothing when the stream belongs to another queue
 */
export async function resumeStream(
  on: Queryable,
  name: string,
  queueId: Id,
  lockTimeoutMs: number,
): Promise<StreamRun | undefined> {
  const values = [name, queueId, String(lockTimeoutMs)];
  const [row] = await on.query<StreamRun>(RESUME_STREAM(on.schema), values);
  return row;
}

/** What the row says is final while the transaction lasts, and holds after a fail-over once that has committed. */
export async function confirmStream(on: Queryable, id: Id): Promise<LedgerRow | undefined> {
  const [row] = await on.query<LedgerRow>(CONFIRM_STREAM(on.schema), [id]);
  return row;
}

/** @returns how far the run had come; nothing when its row is gone or another run has it */
export async function fenceStream(
  on: Queryable,
  id: Id,
  epoch: number,
): Promise<Pick<LedgerRow, 'rows' | 'position'> | undefined> {
  const [row] = await on.query<Pick<LedgerRow, 'rows' | 'position'>>(FENCE_STREAM(on.schema), [id, epoch]);
  return row;
}

/** @returns whether there was one */
export async function deleteStream(on: Queryable, name: string): Promise<boolean> {
  return (await on.query(DELETE_STREAM(on.schema), [name])).length === 1;
}

/** By name: whether the row was made, and with which id, may be unknown. */
export async function forgetStream(on: Queryable, name: string): Promise<void> {
  await on.query(FORGET_STREAM(on.schema), [name]);
}

/** All streams, or the one of that name; those that moved last come first. */
export async function listStreams(on: Queryable, name?: string): Promise<IngestStream[]> {
  type Row = Omit<IngestStream, 'updatedAt'> & { updatedAt: number };
  const rows = await on.query<Row>(LIST_STREAMS(on.schema), [name ?? null]);
  return rows.map((row) => ({ ...row, updatedAt: date(row.updatedAt) }));
}
