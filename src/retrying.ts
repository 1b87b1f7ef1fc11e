import { backoffMs, type BackoffOptions, sleep } from './backoff.js';
import { SluiceError, TimeoutError } from './errors/index.js';
import { onAbort } from './on-abort.js';

export interface RetryOptions extends BackoffOptions {
  /** How often what fails for a transient reason is done again. */
  retries: number;
}

export interface Persistence extends BackoffOptions {
  /** How often it is done again. @default as often as there is time for */
  retries?: number;
  /** Longest time for all tries, in ms. @default endless */
  withinMs?: number;
  /** Ends the wait between two tries with its reason. */
  signal?: AbortSignal;
  /** From its abort on nothing is waited for: it ends a wait, and no failure after it is followed by another try. */
  hurry?: AbortSignal;
  /** Whether what failed so is worth another try. @default whether the error is transient */
  passes?: (error: unknown) => boolean;
  /** Told before each wait. */
  onRetry?: (attempt: number, error: unknown, delayMs: number) => void;
}

/**
 * Does it again while it fails for a passing reason, as often as that is allowed and until the time is over.
 * @param work is told how long it may take, in ms
 */
export async function retrying<T>(options: Persistence, work: (withinMs: number) => Promise<T>): Promise<T> {
  const { retries = Infinity, withinMs = Infinity, signal, hurry, passes = isTransient, onRetry } = options;
  const end = performance.now() + withinMs;
  for (let failures = 1; ; failures++) {
    try {
      return await work(Math.max(1, end - performance.now()));
    } catch (error) {
      const delayMs = backoffMs(failures, options);
      const again = passes(error) && failures <= retries;
      if (!again || hurry?.aborted) throw error;
      // The last try had only what the others had left: the time that was over is that of all.
      if (performance.now() + delayMs >= end)
        throw error instanceof TimeoutError ? error.of(withinMs) : error;
      onRetry?.(failures, error, delayMs);
      await pause(delayMs, signal, hurry);
    }
  }
}

export function isTransient(error: unknown): boolean {
  return error instanceof SluiceError && error.transient;
}

async function pause(ms: number, signal?: AbortSignal, hurry?: AbortSignal): Promise<void> {
  const woken = new AbortController();
  const stops = [signal, hurry].map((cause) => cause && onAbort(cause, () => woken.abort()));
  await sleep(ms, woken.signal).catch(() => undefined);
  for (const stop of stops) stop?.();
  signal?.throwIfAborted();
}
