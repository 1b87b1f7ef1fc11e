import type { BatchOptions } from '../../streams/producer-stream.js';
import * as check from '../check.js';
import { checkDelay } from './delay.js';
import type { FlushMethod } from './flush.js';
import type { RetryOptions } from './sequence.js';

export interface WritableOptions<T> extends Partial<BatchOptions> {
  /**
   * Seconds until a message is due, for all messages or by item: a whole number from 0 to 4,294,967,295.
   * @default 0
   */
  delaySeconds?: number | ((item: T) => number);
  /**
   * How batches are sent. `auto` takes binary COPY, or an INSERT where the server refuses COPY (row-level security).
   * @default 'auto'
   */
  method?: FlushMethod | 'auto';
  /** How often a batch that failed for a passing reason is sent again before the stream fails. @default 10 */
  retries?: number;
  /** Wait before the first of these retries, in ms; it doubles up to `retryMaxMs`, with jitter. @default 50 */
  retryBaseMs?: number;
  /** Longest wait before a retry, in ms. @default 5000 */
  retryMaxMs?: number;
  /** Longest time for one try of one batch, in ms; then its connection is cut and the batch sent again. @default 30000 */
  batchTimeoutMs?: number;
  /** Ends the stream at once when it aborts: with an AbortError whose `cause` is the signal's reason. */
  signal?: AbortSignal;
}

export function checkWritableOptions<T>(options: WritableOptions<T>) {
  const { delaySeconds = 0 } = options;
  return {
    batch: {
      batchSize: check.integer('batchSize', options.batchSize ?? 5_000, { min: 1, max: 1_000_000 }),
      batchBytes: check.integer('batchBytes', options.batchBytes ?? 8 * 1_024 * 1_024, {
        min: 1,
        max: 512 * 1_024 * 1_024,
      }),
      lingerMs: check.integer('lingerMs', options.lingerMs ?? 100, { min: 0, max: 3_600_000 }),
      concurrency: check.integer('concurrency', options.concurrency ?? 2, { min: 1, max: 4 }),
    },
    delaySeconds: typeof delaySeconds === 'function' ? delaySeconds : checkDelay(delaySeconds),
    method: check.oneOf('method', options.method ?? 'auto', ['auto', 'copy', 'insert']),
    retry: checkRetryOptions(options, { retries: 10, retryBaseMs: 50, retryMaxMs: 5_000 }),
    batchTimeoutMs: check.integer('batchTimeoutMs', options.batchTimeoutMs ?? 30_000, {
      min: 100,
      max: 3_600_000,
    }),
  };
}

type RetryFields = Pick<WritableOptions<unknown>, 'retries' | 'retryBaseMs' | 'retryMaxMs'>;

export function checkRetryOptions(options: RetryFields, preset: Required<RetryFields>): RetryOptions {
  const { retries, retryBaseMs, retryMaxMs } = preset;
  return {
    retries: check.integer('retries', options.retries ?? retries, { min: 0, max: 1_000_000 }),
    baseMs: check.integer('retryBaseMs', options.retryBaseMs ?? retryBaseMs, { min: 1, max: 3_600_000 }),
    maxMs: check.integer('retryMaxMs', options.retryMaxMs ?? retryMaxMs, { min: 1, max: 3_600_000 }),
  };
}
