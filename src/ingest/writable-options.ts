import type { BatchOptions } from '../../streams/producer-stream.js';
import * as check from '../check.js';
import type { RetryOptions } from '../retrying.js';
import { checkWindow } from './dedupe-options.js';
import { checkDelay } from './delay.js';
import type { FlushMethod } from './flush.js';
import type { MaxRejects, Reject } from './rejects.js';
import { checkResume, type Resume } from './resume.js';

export interface WritableOptions<T> extends Partial<BatchOptions> {
  /** Batches in flight, from 1 to 4. @default 2 */
  concurrency?: number;
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
  /**
   * Makes the stream one that outlives its process: started again with the same name, by any process, it goes on where
   * it ended, and whoever ran it before is fenced. The source has to go on behind `stream.resumeFrom`.
   */
  resume?: Resume<T>;
  /**
   * Called with each item that cannot be stored, batch by batch in their order, and within a batch in order those that
   * are refused here and then those that the server refuses. Called when the batches before are committed and before the
   * transaction of its batch opens: once within a run, again in a later one if its batch was not committed. The stream
   * then goes on without the item. What it throws ends the stream.
   */
  onReject?: (reject: Reject<T>) => void | Promise<void>;
  /** Queue where items that cannot be stored become messages, in the transaction of their batch: exactly once. */
  rejectTo?: string;
  /**
   * With `onReject` or `rejectTo`: how many rejects end the stream with a TooManyRejectsError; a number, or their share
   * of the items so far, looked at when a batch is sent. @default no limit
   */
  maxRejects?: MaxRejects;
  /**
   * Key of an item, up to 2,000 bytes: while the queue remembers it, items with the same key are left out; undefined
   * for an item that may come again. Such a stream has one batch in flight.
   */
  dedupeKey?: (item: T) => string | undefined;
  /** For how long the queue remembers a key, in seconds, from 1 to 315,360,000 (ten years). @default 604800 (a week) */
  dedupeWindowSeconds?: number;
  /**
   * The stream waits while that many messages of the queue are due and in nobody's hands; batches are at most a tenth of
   * it. With several producers it is passed by what they send between two looks. @default no limit
   */
  maxBacklog?: number;
  /** Ends the stream at once when it aborts: with an AbortError whose `cause` is the signal's reason. */
  signal?: AbortSignal;
}

export const WRITABLE: check.Names<WritableOptions<never>> = {
  batchSize: true,
  batchBytes: true,
  lingerMs: true,
  concurrency: true,
  delaySeconds: true,
  method: true,
  retries: true,
  retryBaseMs: true,
  retryMaxMs: true,
  batchTimeoutMs: true,
  resume: true,
  onReject: true,
  rejectTo: true,
  maxRejects: true,
  dedupeKey: true,
  dedupeWindowSeconds: true,
  maxBacklog: true,
  signal: true,
};

export function checkWritableOptions<T>(options: WritableOptions<T>) {
  const { delaySeconds = 0, dedupeKey, signal } = options;
  if (signal !== undefined) check.signal('signal', signal);
  const maxBacklog = checkMaxBacklog(options.maxBacklog);
  const batchSize = check.integer('batchSize', options.batchSize ?? 5_000, { min: 1, max: 1_000_000 });
  const concurrency = check.integer('concurrency', options.concurrency ?? 2, { min: 1, max: 4 });
  return {
    batch: {
      batchSize: Math.min(batchSize, Math.ceil((maxBacklog ?? Infinity) / 10)),
      batchBytes: check.integer('batchBytes', options.batchBytes ?? 8 * 1_024 * 1_024, {
        min: 1,
        max: 512 * 1_024 * 1_024,
      }),
      lingerMs: check.integer('lingerMs', options.lingerMs ?? 100, { min: 0, max: 3_600_000 }),
    },
    // With two, batch n may wait in the server for a key of n+1, which waits here for n: no deadlock that anybody sees.
    concurrency: dedupeKey === undefined ? concurrency : 1,
    delaySeconds: typeof delaySeconds === 'function' ? delaySeconds : checkDelay(delaySeconds),
    resume: checkResume(options.resume),
    rejects: checkRejects(options),
    dedupeKey: dedupeKey === undefined ? undefined : check.callback('dedupeKey', dedupeKey),
    dedupeWindowSeconds: dedupeKey && checkWindow(options.dedupeWindowSeconds),
    maxBacklog,
    method: check.oneOf('method', options.method ?? 'auto', ['auto', 'copy', 'insert']),
    retry: checkRetryOptions(options, { retries: 10, retryBaseMs: 50, retryMaxMs: 5_000 }),
    batchTimeoutMs: check.integer('batchTimeoutMs', options.batchTimeoutMs ?? 30_000, {
      min: 100,
      max: 3_600_000,
    }),
  };
}

function checkMaxBacklog(maxBacklog: unknown): number | undefined {
  if (maxBacklog === undefined) return undefined;
  return check.integer('maxBacklog', maxBacklog, { min: 1, max: 1_000_000_000 });
}

/** Undefined where nobody wants rejects: then the first one ends the stream. */
function checkRejects<T>({ onReject, rejectTo, ...options }: WritableOptions<T>) {
  const maxRejects = options.maxRejects === undefined ? undefined : checkMaxRejects(options.maxRejects);
  if (onReject === undefined && rejectTo === undefined) return undefined;
  if (onReject !== undefined) check.callback('onReject', onReject);
  if (rejectTo !== undefined) check.text('rejectTo', rejectTo, 2_000);
  return { onReject, rejectTo, maxRejects };
}

function checkMaxRejects(maxRejects: MaxRejects): MaxRejects {
  if (!check.isObject(maxRejects)) return check.integer('maxRejects', maxRejects, { min: 0 });
  const { ratio } = check.options<{ ratio: number }>('maxRejects', maxRejects, { ratio: true });
  return { ratio: check.number('maxRejects.ratio', ratio, { min: 0, max: 1 }) };
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
