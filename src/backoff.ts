import { setTimeout as delay } from 'node:timers/promises';

export interface BackoffOptions {
  /** Wait before the first retry, in ms. */
  baseMs: number;
  /** Longest wait, in ms. */
  maxMs: number;
}

/** More would be beyond all numbers. */
const MAX_DOUBLINGS = 1_000;

/** Exponential back-off with full jitter: a wait in ms, between half of and the whole of `baseMs * 2^(attempt-1)`, capped. */
export function backoffMs(attempt: number, { baseMs, maxMs }: BackoffOptions, random = Math.random): number {
  const ceiling = Math.min(maxMs, baseMs * 2 ** Math.min(attempt - 1, MAX_DOUBLINGS));
  return ceiling * (0.5 + random() / 2);
}

/** Waits `ms`; rejects with the signal's reason as soon as it aborts. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  try {
    await delay(ms, undefined, signal ? { signal } : {});
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}
