import { InvalidOptionError } from '../errors/index.js';
import type { Due } from '../sql/scheduled.js';
import type { Id, StoredMessage } from '../types.js';
import type { PayloadCheck } from '../validation.js';
import type { OutgoingRow, StoredRow } from './call.js';

/** What payloads go through on their way out. */
export interface PayloadFilter {
  payloads: PayloadCheck;
  /** Makes the payload that is stored, or a promise of it. */
  validate: ((payload: unknown, index?: number) => unknown) | undefined;
}

/** One parameter of one statement holds them all; PostgreSQL's limit is 1 GiB. */
const MAX_BATCH_BYTES = 256 * 1_024 * 1_024;

export interface RowOptions {
  due: Due;
  /** What keeps the like of a payload out of the queue. */
  onceOf: ((payload: unknown, index: number | undefined) => OutgoingRow['once']) | undefined;
}

/**
 * Makes rows of payloads, all of them before it returns or waits for a validator: the caller may go on to change them.
 * @param single whether errors name no index
 */
export async function outgoingRows(
  filter: PayloadFilter,
  payloads: readonly unknown[],
  { due, onceOf }: RowOptions,
  single = false,
): Promise<OutgoingRow[]> {
  const place = (index: number) => (single ? undefined : index);
  const onces = onceOf && payloads.map((payload, index) => onceOf(payload, place(index)));
  let batchBytes = 0;
  const row = (payload: unknown, index: number): OutgoingRow => {
    const json = filter.payloads.toJson(payload, place(index));
    const bytes = Buffer.byteLength(json);
    filter.payloads.checkSize(bytes, place(index));
    batchBytes += bytes;
    if (batchBytes > MAX_BATCH_BYTES && !single) throw tooMuch(batchBytes, index, payloads.length);
    return { payload, json, bytes, due, index: place(index), once: onces?.[index] };
  };
  const { validate } = filter;
  if (!validate) return payloads.map(row);
  // Each a promise, so that one that is thrown leaves none behind whose rejection nobody handles.
  const outputs = payloads.map(
    (payload, index) => new Promise((resolve) => resolve(validate(payload, place(index)))),
  );
  return (await Promise.all(outputs)).map(row);
}

/** A row as the table holds it now; the payload as it was given, since only the server knows what became of its JSON. */
export function storedMessage<Out>(
  { id, payload, atMicros, due }: StoredRow,
  queueId: Id,
  producerWorkerId: Id,
): StoredMessage<Out> {
  const at = Number(atMicros / 1_000n);
  return {
    id,
    queueId,
    payload: payload as Out,
    // As the statement has it: a time that had passed became now.
    vt: new Date('at' in due ? Math.max(at, due.at.getTime()) : at + due.delaySeconds * 1_000),
    enqueuedAt: new Date(at),
    readCount: 0,
    dequeuedAt: null,
    producerWorkerId,
    consumerWorkerId: null,
    archivedAt: null,
  };
}

function tooMuch(bytes: number, index: number, count: number): InvalidOptionError {
  return new InvalidOptionError(
    'payloads',
    `at most ${MAX_BATCH_BYTES} bytes of JSON in all (use ingest() or writable() for more)`,
    `${bytes} after ${index + 1} of ${count} payloads`,
  );
}
