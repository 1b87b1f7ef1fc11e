import type { StoredMessage } from '../types.js';
import { date, seconds } from './time.js';

/** A message's columns, of the table or of what changed it. What a foreign client left out: the one time stands for the other. */
export const storedColumns = (
  m: string,
) => `${m}.id::text as id, ${m}.queue_id::text as "queueId", ${m}.payload,
    coalesce(${m}.read_ct, 0) as "readCount", ${m}.producer_worker_id::text as "producerWorkerId",
    ${m}.consumer_worker_id::text as "consumerWorkerId", ${seconds(`coalesce(${m}.vt, ${m}.enqueued_at)`)} as vt,
    ${seconds(`coalesce(${m}.enqueued_at, ${m}.vt)`)} as "enqueuedAt", ${seconds(`${m}.dequeued_at`)} as "dequeuedAt",
    ${seconds(`${m}.archived_at`)} as "archivedAt"`;

type Timed = 'vt' | 'enqueuedAt' | 'dequeuedAt' | 'archivedAt';

/** `storedColumns` as the driver brings them. */
export interface StoredRow<T> extends Omit<StoredMessage<T>, Timed> {
  vt: number;
  enqueuedAt: number;
  dequeuedAt: number | null;
  archivedAt: number | null;
}

export function asStored<T>(row: StoredRow<T>): StoredMessage<T> {
  return {
    id: row.id,
    queueId: row.queueId,
    payload: row.payload,
    vt: date(row.vt),
    enqueuedAt: date(row.enqueuedAt),
    readCount: row.readCount,
    dequeuedAt: dateOrNull(row.dequeuedAt),
    producerWorkerId: row.producerWorkerId,
    consumerWorkerId: row.consumerWorkerId,
    archivedAt: dateOrNull(row.archivedAt),
  };
}

function dateOrNull(epochSeconds: number | null): Date | null {
  return epochSeconds === null ? null : date(epochSeconds);
}
