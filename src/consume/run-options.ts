import * as check from '../check.js';
import type { CallersClient } from '../db.js';
import type { Message } from '../message.js';
import type { SettledBy } from '../sql/settle.js';

export interface RunOptions {
  /** Handlers at work at once. @default 10 */
  concurrency?: number;
  /**
   * Messages claimed ahead of the handlers, whose leases are renewed while they wait. More of them keep short handlers
   * busy; fewer leave more to other consumers. Without it, what waits longer than its time because handlers have become
   * slow goes back, uncounted. @default what the handlers get done in a tenth of a second, at least as many as are
   * handled at once, at most 6000, as far as there is memory
   */
  prefetch?: number;
  /**
   * Length of a lease, in seconds, from 0.1 up. It is renewed for as long as the handler runs: this is how long a
   * message waits after its process has died. @default the consumer's
   */
  lockSeconds?: number;
  /** What becomes of a message whose handler succeeds. @default 'archive' */
  onSuccess?: SettledBy;
  /**
   * Each handler gets the client of a transaction, in which its message is settled too: what it writes there happens
   * exactly once. Takes a connection of the pool for each handler at work. @default false
   */
  transactional?: boolean;
  /** Time for handlers to end after the signal, or `close()`, in seconds; then their signals abort. @default 30 */
  shutdownSeconds?: number;
  /** Ends the run when it aborts: nothing more is claimed, and handlers that are at work have `shutdownSeconds`. */
  signal?: AbortSignal;
}

export interface RunBatchOptions extends RunOptions {
  /** Most messages in one batch; there may be fewer when the queue has no more. @default 100 */
  batchSize?: number;
  /** Batches handled at once. @default 1 */
  concurrency?: number;
}

export const RUN: check.Names<RunOptions> = {
  concurrency: true,
  prefetch: true,
  lockSeconds: true,
  onSuccess: true,
  transactional: true,
  shutdownSeconds: true,
  signal: true,
};
export const RUN_BATCH: check.Names<RunBatchOptions> = { ...RUN, batchSize: true };

/** What a handler gets beside its message. */
export interface HandlerContext {
  /** Aborts when the lease is lost (LeaseLostError), or at the end of a shutdown's time (ShutdownError). */
  readonly signal: AbortSignal;
  /**
   * Makes the leases last at least that many seconds from now. They are renewed anyway for as long as the handler runs:
   * for work after which this process may not come back in time.
   * @returns whether they were all still held
   */
  readonly extend: (seconds: number) => Promise<boolean>;
}

export interface TransactionalContext extends HandlerContext {
  /** In a transaction that commits with the message, or not at all. Not to be committed or rolled back by the handler. */
  readonly client: CallersClient;
}

/** Returns: done. Throws: failed; a `DeadLetter` or a `RetryAfter` says what is to become of it. */
export type Handler<T = unknown, C extends HandlerContext = HandlerContext> = (
  message: Message<T>,
  context: C,
) => unknown;

/**
 * Returns nothing: all done. Returns an array with an entry for each message, in order: an Error (a `DeadLetter` or
 * a `RetryAfter` too) for each that failed, anything else for those that are done. Throws: all failed.
 */
export type BatchHandler<T = unknown, C extends HandlerContext = HandlerContext> = (
  messages: Message<T>[],
  context: C,
) => unknown;

/** What a run has done. */
export interface RunSummary {
  /** Messages handled and settled. */
  done: number;
  /** Failures after which a message will be tried again. */
  retried: number;
  /** Messages that became dead letters. */
  dead: number;
  /** Messages whose lease was lost before they were settled. */
  lost: number;
  /** Messages whose handlers were made to stop when the run ended: they went back. Those that none had begun are not counted. */
  released: number;
}

export type CheckedRunOptions = ReturnType<typeof checkRunOptions>;

/** Every setting of a run, checked, with its default. */
export function checkRunOptions(
  options: RunBatchOptions,
  defaults: { concurrency: number; batchSize: number; lockSeconds: number },
) {
  const batchSize = check.integer('batchSize', options.batchSize ?? defaults.batchSize, {
    min: 1,
    max: 100_000,
  });
  const concurrency = check.integer('concurrency', options.concurrency ?? defaults.concurrency, {
    min: 1,
    max: 10_000,
  });
  return {
    concurrency,
    batchSize,
    atOnce: concurrency * batchSize,
    prefetch: options.prefetch === undefined ? undefined : wholeBatches(options.prefetch, batchSize),
    lockSeconds: check.number('lockSeconds', options.lockSeconds ?? defaults.lockSeconds, {
      min: 0.1,
      max: 2_592_000,
    }),
    onSuccess: check.oneOf('onSuccess', options.onSuccess ?? 'archive', ['archive', 'delete']),
    transactional: check.boolean('transactional', options.transactional ?? false),
    shutdownSeconds: check.number('shutdownSeconds', options.shutdownSeconds ?? 30, { min: 0, max: 86_400 }),
    signal: options.signal === undefined ? undefined : check.signal('signal', options.signal),
  };
}

/** Or every other batch would not be full. */
function wholeBatches(prefetch: number, batchSize: number): number {
  check.integer('prefetch', prefetch, { min: 0, max: 100_000 });
  return Math.ceil(prefetch / batchSize) * batchSize;
}
