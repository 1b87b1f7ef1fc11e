import type { Queryable } from '../db.js';
import type { Id } from '../types.js';
import { statement } from './statement.js';

const OPEN_STREAM = statement(
  'open_stream',
  (s) => `
  insert into ${s}.sluice_streams (name, queue_id, worker_id) values ($1, $2, $3) returning id::text, epoch::float8`,
);
/** Waits for a half-dead backend that holds the row: only then does it say what is committed. */
const LOCK_STREAM = statement(
  'lock_stream',
  (s) => `
  select epoch::float8, seq::float8, position from ${s}.sluice_streams where id = $1 for update`,
);
const CLOSE_STREAM = statement(
  'close_stream',
  (s) => `
  delete from ${s}.sluice_streams where id = $1 and epoch = $2 returning epoch::float8, seq::float8, position`,
);

/** What the ledger says: the last committed batch and the source position behind it. */
export interface LedgerRow {
  epoch: number;
  seq: number;
  position: string;
}

export async function openStream(
  on: Queryable,
  name: string,
  queueId: Id,
  workerId: Id,
): Promise<{ id: Id; epoch: number }> {
  const [row] = await on.query<{ id: Id; epoch: number }>(OPEN_STREAM(on.schema), [name, queueId, workerId]);
  return row as { id: Id; epoch: number };
}

export async function lockStream(on: Queryable, id: Id): Promise<LedgerRow | undefined> {
  const [row] = await on.query<LedgerRow>(LOCK_STREAM(on.schema), [id]);
  return row;
}

/** @returns the row as it was at the end */
export async function closeStream(on: Queryable, id: Id, epoch: number): Promise<LedgerRow | undefined> {
  const [row] = await on.query<LedgerRow>(CLOSE_STREAM(on.schema), [id, epoch]);
  return row;
}
