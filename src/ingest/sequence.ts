import { type Deferred, deferred, orAbort } from '../deferred.js';
import { isTransient, retrying, type RetryOptions } from '../retrying.js';

/** The two moments at which a batch must wait for the one before it. */
export interface Turn {
  /** Number of the batch, counted from 1. */
  seq: number;
  /** Aborts when the stream ends, or when an earlier batch failed and this one must go back. */
  signal: AbortSignal;
  /** Resolves when the previous batch has its transaction. */
  toBegin(): Promise<void>;
  /** Says that this batch has its transaction. */
  begun(): void;
  /** Resolves when the previous batch is known to be committed. */
  toCommit(): Promise<void>;
}

export interface SequenceOptions<B> {
  retry: RetryOptions;
  /** Longest wait of an open transaction for its turn, in ms. */
  turnMs: number;
  signal: AbortSignal;
  onRetry: (seq: number, attempt: number, error: Error, delayMs: number) => void;
  /**
   * Whether a batch that failed for good is to be sent again, in another way; asked when those before it are committed.
   * What it throws takes the place of the failure.
   */
  again: (batch: B, error: unknown) => Promise<boolean>;
}

/** Why an attempt ended that did not fail itself. */
class GoBack extends Error {}

/** What the first batch has to wait for. */
const DONE = Promise.resolve();

class Slot {
  begun: Deferred<void> = deferred();
  readonly committed: Deferred<void> = deferred();
  attempt = new AbortController();
  constructor(
    readonly seq: number,
    public previous: Slot | undefined,
  ) {}

  settle(error?: Error): void {
    for (const moment of [this.begun, this.committed]) {
      if (error) moment.reject(error);
      else moment.resolve();
    }
    // Or the slots would hold one another for ever.
    this.previous = undefined;
  }
}

/**
 * Batches overlap, but begin and commit in order.
 *
 * Go back N: when a batch fails for a transient reason, the later ones in flight roll back, keep their bytes and begin
 * again after it. So no batch holds a connection while it waits for one that has none, which would deadlock a full pool.
 * A batch whose turn to commit is long in coming rolls back too, since an open transaction holds vacuum back.
 */
export class Sequence<B> {
  #last: Slot | undefined;
  readonly #inFlight = new Set<Slot>();
  #sent = 0;
  /** A batch has failed for good, and with it all that come after. */
  #failed = false;

  constructor(
    private readonly attempt: (batch: B, turn: Turn) => Promise<void>,
    private readonly options: SequenceOptions<B>,
  ) {
    const { signal } = options;
    const abortAll = () => this.#inFlight.forEach((slot) => slot.attempt.abort(signal.reason));
    signal.addEventListener('abort', abortAll, { once: true });
  }

  /** Resolves with the batch's number when it is committed. The order of the calls is the order of the batches. */
  async send(batch: B): Promise<number> {
    const slot = new Slot(++this.#sent, this.#last);
    this.#last = slot;
    this.#inFlight.add(slot);
    try {
      await this.#untilCommitted(batch, slot);
      slot.settle();
      return slot.seq;
    } catch (error) {
      this.#failed = true;
      slot.settle(error as Error);
      throw error;
    } finally {
      this.#inFlight.delete(slot);
    }
  }

  async #untilCommitted(batch: B, slot: Slot): Promise<void> {
    const { retry, signal, onRetry, again } = this.options;
    // The error may be that of the batch before, which is not to be tried again here.
    const passes = (error: unknown) => !signal.aborted && !this.#failed && isTransient(error);
    const told = (attempt: number, error: unknown, delayMs: number) =>
      onRetry(slot.seq, attempt, error as Error, delayMs);
    for (;;) {
      try {
        await retrying({ ...retry, signal, passes, onRetry: told }, () =>
          this.#unlessMadeToGoBack(batch, slot),
        );
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (this.#failed) throw error;
        // Earlier batches first: what is committed in the end must not depend on which of them failed soonest.
        await orAbort(slot.previous?.committed.promise ?? DONE, signal);
        if (!(error instanceof GoBack) && !(await again(batch, error))) throw error;
      }
    }
  }

  /** One attempt; another one as often as an earlier batch makes it begin again, which is no failure of this one. */
  async #unlessMadeToGoBack(batch: B, slot: Slot): Promise<void> {
    const { signal } = this.options;
    for (;;) {
      signal.throwIfAborted();
      slot.attempt = new AbortController();
      try {
        await this.attempt(batch, this.#turn(slot, slot.attempt.signal));
        return;
      } catch (error) {
        this.#goBack(slot);
        if (signal.aborted || this.#failed || !slot.attempt.signal.aborted) throw error;
      }
    }
  }

  #turn(slot: Slot, signal: AbortSignal): Turn {
    // This attempt's own: one that goes back may still call begun() before it notices.
    const { previous, seq, begun } = slot;
    return {
      seq,
      signal,
      toBegin: () => orAbort(previous?.begun.promise ?? DONE, signal),
      begun: () => begun.resolve(),
      toCommit: async () => {
        const turn = previous?.committed.promise ?? DONE;
        const tooLong = deferred<never>();
        const timer = setTimeout(() => tooLong.reject(new GoBack()), this.options.turnMs);
        try {
          await orAbort(Promise.race([turn, tooLong.promise]), signal);
        } finally {
          clearTimeout(timer);
        }
      },
    };
  }

  /** Batch `slot` will begin again, so every later one must as well: their `vt` would precede its. */
  #goBack(slot: Slot): void {
    slot.begun = deferred();
    for (const later of this.#inFlight) {
      if (later.seq <= slot.seq) continue;
      later.begun = deferred();
      later.attempt.abort(new GoBack());
    }
  }
}
