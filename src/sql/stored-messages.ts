import type { Queryable } from '../db.js';
import type { Id, StoredMessage } from '../types.js';
import { statement } from './statement.js';
import { date, seconds } from './time.js';

/** What a foreign client left out: the one time stands for the other. */
const SELECT_MESSAGE = statement(
  'select_message',
  (s) => `
  select id::text as id, queue_id::text as "queueId", payload, coalesce(read_ct, 0) as "readCount",
    producer_worker_id::text as "producerWorkerId", consumer_worker_id::text as "consumerWorkerId",
    ${seconds('coalesce(vt, enqueued_at)')} as vt, ${seconds('coalesce(enqueued_at, vt)')} as "enqueuedAt",
    ${seconds('dequeued_at')} as "dequeuedAt", ${seconds('archived_at')} as "archivedAt"
  from ${s}.pgqrs_messages where id = $1`,
);

type Timed = 'vt' | 'enqueuedAt' | 'dequeuedAt' | 'archivedAt';

interface StoredRow<T> extends Omit<StoredMessage<T>, Timed> {
  vt: number;
  enqueuedAt: number;
  dequeuedAt: number | null;
  archivedAt: number | null;
}

/** A message of any queue, archived or not, just to look at it. */
export async function selectMessage<T>(on: Queryable, id: Id): Promise<StoredMessage<T> | undefined> {
  const [row] = await on.query<StoredRow<T>>(SELECT_MESSAGE(on.schema), [id]);
  return (
    row && {
      ...row,
      vt: date(row.vt),
      enqueuedAt: date(row.enqueuedAt),
      dequeuedAt: row.dequeuedAt === null ? null : date(row.dequeuedAt),
      archivedAt: row.archivedAt === null ? null : date(row.archivedAt),
    }
  );
}
