import { InvalidOptionError } from '../errors/index.js';
import type { PayloadCheck } from '../validation.js';
import type { OutgoingRow } from './call.js';

/** What payloads go through on their way out. */
export interface PayloadFilter {
  payloads: PayloadCheck;
  /** Makes the payload that is stored, or a promise of it. */
  validate: ((payload: unknown, index?: number) => unknown) | undefined;
}

/** One parameter of one statement holds them all; PostgreSQL's limit is 1 GiB. */
const MAX_BATCH_BYTES = 256 * 1_024 * 1_024;

/**
 * Makes rows of payloads, all of them before it returns or waits for a validator: the caller may go on to change them.
 * @param single whether errors name no index
 */
export async function outgoingRows(
  filter: PayloadFilter,
  payloads: readonly unknown[],
  delaySeconds: number,
  single = false,
): Promise<OutgoingRow[]> {
  let batchBytes = 0;
  const row = (payload: unknown, index: number): OutgoingRow => {
    const json = filter.payloads.toJson(payload, single ? undefined : index);
    const bytes = Buffer.byteLength(json);
    filter.payloads.checkSize(bytes, single ? undefined : index);
    batchBytes += bytes;
    if (batchBytes > MAX_BATCH_BYTES && !single) throw tooMuch(batchBytes, index, payloads.length);
    return { json, bytes, delaySeconds, index: single ? undefined : index };
  };
  const { validate } = filter;
  if (!validate) return payloads.map(row);
  const outputs = payloads.map((payload, index) => validate(payload, single ? undefined : index));
  return (await Promise.all(outputs)).map(row);
}

function tooMuch(bytes: number, index: number, count: number): InvalidOptionError {
  return new InvalidOptionError(
    'payloads',
    `at most ${MAX_BATCH_BYTES} bytes of JSON in all (use ingest() or writable() for more)`,
    `${bytes} after ${index + 1} of ${count} payloads`,
  );
}
