import type { Room } from '../../streams/claim-loop.js';
import { backoffMs, sleep } from '../backoff.js';
import { type Deferred, deferred, orAbort } from '../deferred.js';
import { SluiceError } from '../errors/index.js';
import type { Turns, Waiter } from './turns.js';

/** A queue as its consumer sees it. */
export interface QueueSourceOptions<M> {
  /** One claim. Where the signal aborts, its answer is still wanted, but soon. */
  claim: (room: Room, hurry: AbortSignal) => Promise<M[]>;
  /** ms until the next message is due; nothing when none is waiting. */
  nextDueMs: (hurry: AbortSignal) => Promise<number | undefined>;
  /** ms until a claim is due that finds what the last ones cannot have seen; nothing where they have seen all. */
  nextLookMs: () => number | undefined;
  /** Has `wake` called whenever this consumer should look, whoever else does. */
  subscribe: (wake: () => void) => () => void;
  /** Of all that wait for the queue. */
  turns: Turns;
  pollIntervalMs: number;
  onClaimError: (error: Error) => void;
}

const CLAIM_RETRY = { baseMs: 50, maxMs: 5_000 };
/** When messages are due but others hold them locked, or come faster than we see them. */
const DUE_BUT_EMPTY = { baseMs: 2, maxMs: 250 };
/** Any role may NOTIFY: wakes without messages behind them must not turn into a storm of claims. */
const BETWEEN_EMPTY_CLAIMS_MS = 5;

/**
 * When to claim from a queue. After a claim that came back short it waits until the next message is due, a wake, or
 * the poll interval, whichever is first. A wake is a hint that shortens the wait; polling is what can be relied on.
 */
export class QueueSource<M> implements Waiter {
  /** Settled by a wake. A new one before each claim, so that a wake during the claim is not missed. */
  #woken: Deferred<void> = deferred();
  readonly #unsubscribe: () => void;
  readonly #leave: () => void;

  constructor(private readonly options: QueueSourceOptions<M>) {
    this.#unsubscribe = options.subscribe(() => this.wake());
    this.#leave = options.turns.join(this);
  }

  wake(): void {
    this.#woken.resolve();
  }

  /** A server that is away comes back: a stream outlives it. */
  async claim(room: Room, signal: AbortSignal): Promise<M[]> {
    for (let failures = 1; ; failures++) {
      this.#woken = deferred();
      try {
        const messages = await this.options.claim(room, signal);
        this.options.turns.claimed(this, messages.length, messages.length === room.limit);
        return messages;
      } catch (error) {
        if (!(error instanceof SluiceError && error.transient) || signal.aborted) throw error;
        this.options.onClaimError(error);
        await sleep(backoffMs(failures, CLAIM_RETRY), signal);
      }
    }
  }

  async wait(empty: number, signal: AbortSignal): Promise<void> {
    const pauseMs = await this.#pauseMs(empty, signal);
    if (empty > 1) await sleep(BETWEEN_EMPTY_CLAIMS_MS, signal);
    const timer = new AbortController();
    const { turns } = this.options;
    turns.fellAsleep(this);
    try {
      await orAbort(Promise.race([this.#woken.promise, sleep(pauseMs, timer.signal)]), signal);
    } finally {
      timer.abort();
      turns.wokeUp(this);
    }
  }

  close(): void {
    this.#unsubscribe();
    this.#leave();
  }

  async #pauseMs(empty: number, signal: AbortSignal): Promise<number> {
    // No answer is no reason to stop: the next claim will tell.
    const dueMs = await this.options.nextDueMs(signal).catch(() => undefined);
    if (dueMs === 0) return empty <= 1 ? 0 : backoffMs(empty, DUE_BUT_EMPTY);
    if (dueMs !== undefined) this.options.turns.dueIn(dueMs);
    const pollMs = this.options.pollIntervalMs * (0.9 + Math.random() * 0.2);
    return Math.min(pollMs, this.options.nextLookMs() ?? Infinity);
  }
}
