import { backoffMs } from '../backoff.js';
import * as check from '../check.js';

/** Growing waits with jitter: each between half of and the whole of `baseSeconds * 2^(attempt - 1)`, up to a maximum. */
export interface ExponentialBackoff {
  /** Wait after the first failure, in seconds. @default 1 */
  baseSeconds?: number;
  /** Longest wait, in seconds. @default 3600 */
  maxSeconds?: number;
}

const EXPONENTIAL: check.Names<ExponentialBackoff> = { baseSeconds: true, maxSeconds: true };

/**
 * How long a message waits after a failure before it is delivered again: exponentially longer, always the same number
 * of seconds, or what a function answers in seconds. `attempt` is the number of its deliveries so far, from 1.
 */
export type Backoff = ExponentialBackoff | number | ((attempt: number, error: unknown) => number);

/** @returns the wait in seconds */
export type RetryPolicy = (attempt: number, error: unknown) => number;

export function retryPolicy(backoff: Backoff): RetryPolicy {
  if (typeof backoff === 'function') {
    return (attempt, error) => check.seconds('what backoff() returns', backoff(attempt, error));
  }
  if (typeof backoff === 'number') {
    const seconds = check.seconds('backoff', backoff);
    return () => seconds;
  }
  check.kind('backoff', backoff, 'a number, a function or { baseSeconds, maxSeconds }', check.isObject);
  const given = check.options<ExponentialBackoff>('backoff', backoff, EXPONENTIAL);
  const baseSeconds = check.seconds('backoff.baseSeconds', given.baseSeconds ?? 1);
  const maxSeconds = check.seconds('backoff.maxSeconds', given.maxSeconds ?? 3_600);
  return (attempt) => backoffMs(attempt, { baseMs: baseSeconds * 1_000, maxMs: maxSeconds * 1_000 }) / 1_000;
}
