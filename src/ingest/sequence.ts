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
  /** Batches in flight at a time. */
  places: number;
  /** Resolves when the batch may be sent. Asked in order, for one batch at a time. */
  pace: (batch: B) => Promise<void>;
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

/** A batch in flight, with the steps that it takes behind the batch before. */
class Place {
  readonly paced: Deferred<void> = deferred();
  begun: Deferred<void> = deferred();
  readonly committed: Deferred<void> = deferred();
  attempt = new AbortController();
  constructor(
    readonly seq: number,
    public previous: Place | undefined,
  ) {}

  /** Resolves when the batch before has taken that step. */
  after(step: 'paced' | 'begun' | 'committed'): Promise<void> {
    return this.previous?.[step].promise ?? DONE;
  }

  settle(error?: Error): void {
    for (const step of [this.paced, this.begun, this.committed]) {
      if (error) step.reject(error);
      else step.resolve();
    }
    // Or the places would hold one another for ever.
    this.previous = undefined;
  }
}

/**
 * Batches overlap, a few of them at a time, but are paced, begin and commit in order.
 *
 * Go back N: when a batch fails for a transient reason, the later ones in flight roll back, keep their bytes and begin
 * again after it. So no batch holds a connection while it waits for one that has none, which would deadlock a full pool.
 * A batch whose turn to commit is long in coming rolls back too, since an open transaction holds vacuum back.
 */
export class Sequence<B> {
  #last: Place | undefined;
  readonly #inFlight = new Set<Place>();
  #sent = 0;
  /** Places that are promised or in use. */
  #taken = 0;
  #onFree: Deferred<void> | undefined;
  /** A batch has failed for good, and with it all that come after. */
  #failed = false;

  constructor(
    private readonly attempt: (batch: B, turn: Turn) => Promise<void>,
    private readonly options: SequenceOptions<B>,
  ) {
    const { signal } = options;
    const abortAll = () => this.#inFlight.forEach((place) => place.attempt.abort(signal.reason));
    signal.addEventListener('abort', abortAll, { once: true });
  }

  /** Takes a place for the next batch, which has to be sent then. One asks at a time. */
  async place(): Promise<void> {
    if (this.#taken === this.options.places) {
      this.#onFree = deferred();
      await this.#onFree.promise;
    }
    this.#taken++;
  }

  /** Resolves with the batch's number when it is committed. The order of the calls is the order of the batches. */
  async send(batch: B): Promise<number> {
    const place = new Place(++this.#sent, this.#last);
    this.#last = place;
    this.#inFlight.add(place);
    try {
      await place.after('paced');
      await this.options.pace(batch);
      place.paced.resolve();
      await this.#untilCommitted(batch, place);
      place.settle();
      return place.seq;
    } catch (error) {
      this.#failed = true;
      place.settle(error as Error);
      throw error;
    } finally {
      this.#inFlight.delete(place);
      this.#taken--;
      this.#onFree?.resolve();
    }
  }

  async #untilCommitted(batch: B, place: Place): Promise<void> {
    const { retry, signal, onRetry, again } = this.options;
    // The error may be that of the batch before, which is not to be tried again here.
    const passes = (error: unknown) => !signal.aborted && !this.#failed && isTransient(error);
    const told = (attempt: number, error: unknown, delayMs: number) =>
      onRetry(place.seq, attempt, error as Error, delayMs);
    for (;;) {
      try {
        await retrying({ ...retry, signal, passes, onRetry: told }, () =>
          this.#unlessMadeToGoBack(batch, place),
        );
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (this.#failed) throw error;
        // Earlier batches first: what is committed in the end must not depend on which of them failed soonest.
        await orAbort(place.after('committed'), signal);
        if (!(error instanceof GoBack) && !(await again(batch, error))) throw error;
      }
    }
  }

  /** One attempt; another one as often as an earlier batch makes it begin again, which is no failure of this one. */
  async #unlessMadeToGoBack(batch: B, place: Place): Promise<void> {
    const { signal } = this.options;
    for (;;) {
      signal.throwIfAborted();
      place.attempt = new AbortController();
      try {
        await this.attempt(batch, this.#turn(place, place.attempt.signal));
        return;
      } catch (error) {
        this.#goBack(place);
        if (signal.aborted || this.#failed || !place.attempt.signal.aborted) throw error;
      }
    }
  }

  #turn(place: Place, signal: AbortSignal): Turn {
    // This attempt's own: one that goes back may still call begun() before it notices.
    const { seq, begun } = place;
    return {
      seq,
      signal,
      toBegin: () => orAbort(place.after('begun'), signal),
      begun: () => begun.resolve(),
      toCommit: async () => {
        const turn = place.after('committed');
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

  /** Its batch will begin again, so every later one must as well: their `vt` would precede its. */
  #goBack(place: Place): void {
    place.begun = deferred();
    for (const later of this.#inFlight) {
      if (later.seq <= place.seq) continue;
      later.begun = deferred();
      later.attempt.abort(new GoBack());
    }
  }
}
