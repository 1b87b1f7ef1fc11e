import { Transform, type TransformCallback } from 'node:stream';
import * as check from '../src/check.js';
import { endOnAbort } from './end-on-abort.js';
import { TokenBucket } from './token-bucket.js';

export interface RateLimitOptions {
  /** Items let through per second, on average. Any number above 0; 0.5 is one every two seconds. */
  perSecond: number;
  /** Items let through at once after a pause. A whole number of at least 1. @default 1 */
  burst?: number;
  /** Ends the stream with an `AbortError` at once, also in the middle of a wait. */
  signal?: AbortSignal | undefined;
}

export const RATE_LIMIT: check.Names<RateLimitOptions> = { perSecond: true, burst: true, signal: true };

/**
 * An object stream that lets items through in order, `perSecond` of them per second on average. It drops nothing: it
 * waits, and so holds its source back; and a reader that is slow or paused holds it back.
 *
 * Timers fire late, and what should have passed meanwhile passes in one group when they do: above some 1,000 a second
 * items come in groups, one per timer tick of at least 1 ms, and the average does not drift. Only lateness of more than
 * a second (a stopped process) is not made up for.
 *
 * Time in which the source had nothing to give, or the reader did not take what was there, earns `burst` items at
 * most. So a source that comes in gulps reaches the full rate only with a `burst` of about one gulp. A stall of the
 * process in the source's turn (code not yet compiled, garbage collection) looks the same: a minute at 200,000 a second
 * came out 10 to 80 ms short, mostly from the start, and never over. A reader that was paused finds one item more,
 * the one that lay ready for it.
 *
 * @throws InvalidOptionError if `perSecond` or `burst` is out of range
 *
 * @example
 * await pipeline(source, rateLimit({ perSecond: 50_000 }), producer.writable());
 */
export function rateLimit(options: RateLimitOptions): Transform {
  const { perSecond, burst = 1, signal } = check.options('rateLimit()', options, RATE_LIMIT);
  check.number('rateLimit.perSecond', perSecond, { above: 0 });
  check.integer('rateLimit.burst', burst, { min: 1 });
  if (signal !== undefined) check.signal('rateLimit.signal', signal);
  return endOnAbort(signal, new RateLimit(new TokenBucket({ perSecond, burst })));
}

class RateLimit extends Transform {
  readonly #bucket: TokenBucket;
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  #passedThisTurn = 0;

  constructor(bucket: TokenBucket) {
    // What lies in the reading side's buffer has passed the limit already: 16 of them would make a burst of their own.
    super({ objectMode: true, readableHighWaterMark: 1 });
    this.#bucket = bucket;
  }

  override _transform(item: unknown, _encoding: BufferEncoding, done: TransformCallback): void {
    const waitMs = this.#bucket.reserve();
    if (waitMs > 0) this.#passAfter(waitMs, item, done);
    else if (this.#passedThisTurn >= ITEMS_PER_TURN) this.#passNextTurn(item, done);
    else this.#pass(item, done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
    done(error);
  }

  /** A timer may also fire up to 1 ms early, since it counts from the event loop's cached, truncated time. */
  #passAfter(waitMs: number, item: unknown, done: TransformCallback): void {
    const dueMs = performance.now() + waitMs;
    const onTimer = () => {
      const lateMs = performance.now() - dueMs;
      if (lateMs < 0) this.#passAfter(-lateMs, item, done);
      else this.#passLate(lateMs + TIMER_GRAIN_MS, item, done);
    };
    this.#timer = setTimeout(onTimer, Math.min(Math.ceil(waitMs), MAX_TIMER_MS));
  }

  /** Callbacks called synchronously for ever would starve every timer of the process, a worker's heartbeat too. */
  #passNextTurn(item: unknown, done: TransformCallback): void {
    const heldAtMs = performance.now();
    this.#immediate = setImmediate(() => this.#passLate(performance.now() - heldAtMs, item, done));
  }

  #passLate(lateMs: number, item: unknown, done: TransformCallback): void {
    this.#bucket.makeUp(lateMs);
    this.#passedThisTurn = 0;
    this.#pass(item, done);
  }

  /** Not `done(null, item)`, which drops an `undefined` without a word. */
  #pass(item: unknown, done: TransformCallback): void {
    this.#passedThisTurn++;
    this.push(item);
    done();
  }
}

const ITEMS_PER_TURN = 1_024;

/** A source that falters for less than this between two timers did not pause: no timer could have told the difference. */
const TIMER_GRAIN_MS = 1;

/** Longer delays overflow a timer to 1 ms. */
const MAX_TIMER_MS = 2 ** 31 - 1;
