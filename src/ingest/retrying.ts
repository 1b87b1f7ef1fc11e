import { backoffMs, sleep } from '../backoff.js';
import { SluiceError, TimeoutError } from '../errors/index.js';
import type { RetryOptions } from './sequence.js';
import type { Deadline } from './watch.js';

/**
 * Does it again while it fails for a passing reason, as often as that is allowed and until the deadline is over.
 * @param work is told how long it may take, in ms
 */
export async function retrying<T>(
  { retries, ...backoff }: RetryOptions,
  { what, ms }: Deadline,
  signal: AbortSignal,
  work: (withinMs: number) => Promise<T>,
): Promise<T> {
  const end = performance.now() + ms;
  for (let failures = 1; ; failures++) {
    try {
      return await work(Math.max(1, end - performance.now()));
    } catch (error) {
      if (error instanceof TimeoutError) throw new TimeoutError(what, ms);
      const delayMs = backoffMs(failures, backoff);
      const passes = error instanceof SluiceError && error.transient && failures <= retries;
      if (!passes || performance.now() + delayMs >= end) throw error;
      await sleep(delayMs, signal);
    }
  }
}
