import { TokenBucket } from '../streams/token-bucket.js';
import { sleep } from './backoff.js';
import { orAbort } from './deferred.js';
import { RateLimitedError } from './errors/index.js';
import { onAbort } from './on-abort.js';

export interface LimiterOptions {
  /** Messages per second, on average. More than 0. */
  perSecond: number;
  /** Messages let through at once after a pause. At least 1. */
  burst: number;
  /** What becomes of messages for which there is no room now. */
  whenLimited: 'wait' | 'reject';
}

export interface RateLimitStatus {
  /** Messages that may go now. Below 0 while those that went, or are waiting, are still being paid off. */
  available: number;
  perSecond: number;
  burst: number;
}

/** A producer's limit: batches of any size pass, charged over the time that follows. */
export class Limiter {
  readonly #bucket: TokenBucket;
  /** Those who wait, the first of them for its tokens and the others for their turn. */
  readonly #waiting = new Set<AbortController>();
  #turn: Promise<void> = Promise.resolve();

  constructor(private readonly options: LimiterOptions) {
    this.#bucket = new TokenBucket(options);
  }

  get status(): RateLimitStatus {
    const { perSecond, burst } = this.options;
    return { available: this.#bucket.available, perSecond, burst };
  }

  /** Waits until `n` messages may go, or refuses them, as the producer was told to. */
  async take(n: number, signal?: AbortSignal): Promise<void> {
    if (this.options.whenLimited === 'wait') return this.wait(n, signal);
    if (this.#waiting.size === 0 && this.#bucket.tryTake(n)) return;
    throw new RateLimitedError(Math.ceil(this.#bucket.waitMs(n)), n, this.options.perSecond);
  }

  /** Waits in any case; who comes first goes first. An abort charges nothing, and rejects with the signal's reason. */
  async wait(n: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    const ended = new AbortController();
    const stopWaiting = signal && onAbort(signal, () => ended.abort(signal.reason));
    this.#waiting.add(ended);
    const before = this.#turn;
    const passed = this.#pass(n, this.#waiting.size === 1 ? undefined : before, ended.signal);
    this.#turn = Promise.allSettled([before, passed]).then(() => undefined);
    try {
      await passed;
    } finally {
      this.#waiting.delete(ended);
      stopWaiting?.();
    }
  }

  /** Ends all waits with `reason`. */
  end(reason: Error): void {
    for (const waiting of this.#waiting) waiting.abort(reason);
  }

  async #pass(n: number, before: Promise<void> | undefined, ended: AbortSignal): Promise<void> {
    if (before) await orAbort(before, ended);
    const waitMs = this.#bucket.reserve(n);
    if (waitMs === 0) return;
    const dueMs = performance.now() + waitMs;
    try {
      for (let left = waitMs; left > 0; left = dueMs - performance.now()) {
        await sleep(Math.min(Math.ceil(left), MAX_TIMER_MS), ended);
      }
    } catch (error) {
      this.#bucket.giveBack(n);
      throw error;
    }
    this.#bucket.makeUp(performance.now() - dueMs);
  }
}

/** Longer delays overflow a timer to 1 ms. */
const MAX_TIMER_MS = 2 ** 31 - 1;
