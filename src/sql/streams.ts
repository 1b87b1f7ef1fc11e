import type { Queryable } from '../db.js';
import type { Id } from '../types.js';
import { statement } from './statement.js';

const OPEN_STREAM = statement(
  'open_stream',
  (s) => `
  insert into ${s}.sluice_streams (name, queue_id, worker_id) values ($1, $2, $3) returning id::text, epoch::float8`,
);
const SELECT_STREAM = statement(
  'select_stream',
  (s) => `select epoch::float8, seq::float8, position from ${s}.sluice_streams where id = $1`,
);
/** Nothing of this run can commit afterwards, so what it answers is final. Asked twice it answers the same. */
const FENCE_STREAM = statement(
  'fence_stream',
  (s) => `
  update ${s}.sluice_streams set epoch = $2::bigint + 1 where id = $1 and epoch between $2 and $2::bigint + 1
  returning position`,
);
const DELETE_STREAM = statement('delete_stream', (s) => `delete from ${s}.sluice_streams where name = $1`);

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

export async function selectStream(on: Queryable, id: Id): Promise<LedgerRow | undefined> {
  const [row] = await on.query<LedgerRow>(SELECT_STREAM(on.schema), [id]);
  return row;
}

/** @returns the source position that the run had reached; nothing when its row is gone or another run has it */
export async function fenceStream(on: Queryable, id: Id, epoch: number): Promise<string | undefined> {
  const [row] = await on.query<{ position: string }>(FENCE_STREAM(on.schema), [id, epoch]);
  return row?.position;
}

/** By name: whether the row was made, and with which id, may be unknown. */
export async function deleteStream(on: Queryable, name: string): Promise<void> {
  await on.query(DELETE_STREAM(on.schema), [name]);
}
