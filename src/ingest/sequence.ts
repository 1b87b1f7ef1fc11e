import { backoffMs, type BackoffOptions, sleep } from '../backoff.js';
import { type Deferred, deferred, orAbort } from '../deferred.js';
import { SluiceError } from '../errors.js';

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

export interface RetryOptions extends BackoffOptions {
  /** How often a batch that fails for a transient reason is sent again. */
  retries: number;
}

export interface SequenceOptions {
  retry: RetryOptions;
  /** Longest wait of an open transaction for its turn, in ms. */
  turnMs: number;
  signal: AbortSignal;
  onRetry: (seq: number, attempt: number, error: Error, delayMs: number) => void;
  /** Whether a batch that failed is to be sent again at once, in another way. */
  again: (error: unknown) => boolean;
}

/** Why an attempt ended that did not fail itself. */
class GoBack extends Error {}

class Slot {
  begun: Deferred<void> = deferred();
  readonly committed: Deferred<void> = deferred();
  attempt = new AbortController();
  constructor(
    readonly seq: number,
    public previous: Slot | undefined,
  ) {}
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

  constructor(
    private readonly attempt: (batch: B, turn: Turn) => Promise<void>,
    private readonly options: SequenceOptions,
  ) {
    const { signal } = options;
    signal.addEventListener(
      'abort',
      () => this.#inFlight.forEach((slot) => slot.attempt.abort(signal.reason)),
      {
        once: true,
      },
    );
  }

  /** Resolves with the batch's number when it is committed. The order of the calls is the order of the batches. */
  async send(batch: B): Promise<number> {
    const slot = new Slot(++this.#sent, this.#last);
    this.#last = slot;
    this.#inFlight.add(slot);
    try {
      await this.#untilCommitted(batch, slot);
      slot.begun.resolve();
      slot.committed.resolve();
      return slot.seq;
    } catch (error) {
      slot.begun.reject(error as Error);
      slot.committed.reject(error as Error);
      throw error;
    } finally {
      slot.previous = undefined;
      this.#inFlight.delete(slot);
    }
  }

  async #untilCommitted(batch: B, slot: Slot): Promise<void> {
    const { retry, signal: ended, onRetry, again } = this.options;
    for (let failures = 0; ;) {
      ended.throwIfAborted();
      slot.attempt = new AbortController();
      try {
        await this.attempt(batch, this.#turn(slot, slot.attempt.signal));
        return;
      } catch (error) {
        this.#goBack(slot);
        ended.throwIfAborted();
        if (slot.attempt.signal.aborted || again(error)) continue;
        if (error instanceof GoBack) {
          await orAbort(slot.previous?.committed.promise ?? Promise.resolve(), ended);
          continue;
        }
        if (!(error instanceof SluiceError && error.transient) || ++failures > retry.retries) throw error;
        const delayMs = backoffMs(failures, retry);
        onRetry(slot.seq, failures, error, delayMs);
        await sleep(delayMs, ended);
      }
    }
  }

  #turn(slot: Slot, signal: AbortSignal): Turn {
    const { previous, seq } = slot;
    return {
      seq,
      signal,
      toBegin: () => orAbort(previous?.begun.promise ?? Promise.resolve(), signal),
      begun: () => slot.begun.resolve(),
      toCommit: async () => {
        if (!previous) return;
        const tooLong = deferred<never>();
        const timer = setTimeout(() => tooLong.reject(new GoBack()), this.options.turnMs);
        try {
          await orAbort(Promise.race([previous.committed.promise, tooLong.promise]), signal);
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
