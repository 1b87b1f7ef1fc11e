import type { Queryable } from '../db.js';
import type { Id, StoredMessage } from '../types.js';
import { statement } from './statement.js';
import { asStored, storedColumns, type StoredRow } from './stored-rows.js';

const SELECT_MESSAGE = statement(
  'select_message',
  (s) => `select ${storedColumns('m')} from ${s}.pgqrs_messages m where m.id = $1`,
);

/** A message of any queue, archived or not, just to look at it. */
export async function selectMessage<T>(on: Queryable, id: Id): Promise<StoredMessage<T> | undefined> {
  const [row] = await on.query<StoredRow<T>>(SELECT_MESSAGE(on.schema), [id]);
  return row && asStored(row);
}
