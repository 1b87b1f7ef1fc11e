export interface TokenBucketOptions {
  /** Tokens that come in per second. More than 0; fractions are fine. */
  perSecond: number;
  /** Most tokens kept over a pause. At least 1. */
  burst: number;
  /** Monotonic clock, in ms. @default performance.now */
  now?: () => number;
}

/**
 * The arithmetic of a rate limit: it keeps no timer and lets nobody wait, it only says how long.
 *
 * It starts full. `n` tokens may go as soon as `min(n, burst)` are there, and all `n` are charged: a batch larger than
 * `burst` leaves a debt that those after it wait for, so that the average holds for batches of any size.
 *
 * A limiter that waits calls {@link reserve}, waits, and reports with {@link makeUp} how much longer than asked it
 * took; one that refuses calls {@link tryTake} and passes on {@link waitMs} as the time after which to try again.
 *
 * A pause of the source earns `burst` tokens at most, but what comes in while the limiter itself is late, because timers
 * fire late, is kept on top until it is used. With `burst: 1` and 200,000 a second, each 1 ms timer is 199 tokens late.
 *
 * Balances are small numbers and intervals of the clock are exact, so the rounding errors of a day at 200,000 a second
 * add up to less than a hundredth of a token.
 *
 * @example
 * const bucket = new TokenBucket({ perSecond: 1_000, burst: 50 });
 * if (!bucket.tryTake(rows.length)) throw new Error(`try again in ${bucket.waitMs(rows.length)} ms`);
 */
export class TokenBucket {
  readonly #perMs: number;
  readonly #burst: number;
  readonly #now: () => number;
  #balance: number;
  #balanceAtMs: number;
  /** Lateness of the limiter that is not used up yet; it lifts the cap of the balance. */
  #lateMs = 0;

  constructor({ perSecond, burst, now = () => performance.now() }: TokenBucketOptions) {
    this.#perMs = perSecond / 1_000;
    this.#burst = burst;
    this.#now = now;
    this.#balance = burst;
    this.#balanceAtMs = now();
  }

  /** Tokens there now, with their fraction; below 0 while a reservation or a large batch is being paid off. */
  get available(): number {
    this.#accrue();
    this.#spill();
    return this.#balance;
  }

  /** How long until {@link tryTake} of `n` succeeds if nobody else takes any, in ms; 0 if it would now. `n` is at least 1. */
  waitMs(n = 1): number {
    const ms = (Math.min(n, this.#burst) - this.available) / this.#perMs;
    return ms > CLOCK_ERROR_MS ? ms : 0;
  }

  /** Takes `n` tokens and returns true, or takes none and returns false. */
  tryTake(n = 1): boolean {
    if (this.waitMs(n) > 0) return false;
    this.#balance -= n;
    return true;
  }

  /** Takes `n` tokens in any case and returns how long the caller has to wait before it uses them, in ms. */
  reserve(n = 1): number {
    const waitMs = this.waitMs(n);
    this.#balance -= n;
    if (waitMs > 0) this.#lateMs = 0;
    return waitMs;
  }

  /** Undoes a reservation that is not going to be used. */
  giveBack(n = 1): void {
    this.#accrue();
    this.#balance = Math.min(this.#balance + n, this.#cap());
  }

  /** Keeps what came in while the limiter held a reservation `lateMs` longer than it had to; a second's worth at most. */
  makeUp(lateMs: number): void {
    this.#lateMs = Math.min(this.#lateMs + lateMs, MAX_LATE_MS);
    this.#accrue();
    this.#balance = Math.min(this.#balance, this.#cap());
  }

  #accrue(): void {
    const nowMs = this.#now();
    this.#balance += (nowMs - this.#balanceAtMs) * this.#perMs;
    this.#balanceAtMs = nowMs;
  }

  /**
   * Drops what a pause earned beyond the cap. The lateness is forgotten at the same pace: a short hiccup of the source
   * does not cost all of it, and after a real pause no more than `burst` is left.
   */
  #spill(): void {
    const surplusMs = (this.#balance - this.#cap()) / this.#perMs;
    if (surplusMs <= 0) return;
    this.#lateMs = Math.max(0, this.#lateMs - surplusMs);
    this.#balance = this.#cap();
  }

  #cap(): number {
    return this.#burst + this.#lateMs * this.#perMs;
  }
}

/** A process that was stopped or blocked for longer does not flood whoever comes after it. */
const MAX_LATE_MS = 1_000;

/** Keeps the rounding of clock readings (2 ns after 100 days) from asking for a wait that has just been waited for. */
const CLOCK_ERROR_MS = 1e-4;
