import { type Deferred, deferred } from '../deferred.js';
import { AmbiguousEnqueueError } from '../errors/index.js';
import { onAbort } from '../on-abort.js';
import type { Due } from '../sql/scheduled.js';
import type { Id } from '../types.js';

/** A message before it is sent. */
export interface OutgoingRow {
  /** What was given, or what the schema made of it; the caller may have changed it since. */
  payload: unknown;
  json: string;
  /** Length of `json` in UTF-8. */
  bytes: number;
  due: Due;
  /** Its place in its batch, for errors; undefined for a single message. */
  index?: number | undefined;
  /** The key that keeps its like out of the queue for a while; undefined for one that may come again. */
  once?: { key: string; windowSeconds: number } | undefined;
}

export interface StoredRow extends OutgoingRow {
  id: Id;
  /** When it was enqueued, in microseconds since 1970. */
  atMicros: bigint;
}

/** For each row what became of it, in order; undefined for one whose key was there already. */
export type Outcome = (StoredRow | undefined)[];

/**
 * One call to enqueue: its rows go together or not at all. An abort before they are sent takes them back; afterwards it
 * only ends the wait, with whether they are in unknown.
 */
export class Call {
  readonly bytes: number;
  /** While it may be on the wire. */
  sent = false;
  settled = false;
  /** Whether it can be sent again though it may be in. */
  readonly repeatable: boolean;
  readonly #outcome: Deferred<Outcome> = deferred();

  readonly #stopWaiting: (() => void) | undefined;

  constructor(
    readonly rows: readonly OutgoingRow[],
    signal: AbortSignal | undefined,
  ) {
    this.bytes = rows.reduce((sum, { bytes }) => sum + bytes, 0);
    this.repeatable = rows.every(({ once }) => once !== undefined);
    this.#stopWaiting = signal && onAbort(signal, () => this.#takeBack(signal.reason));
  }

  get stored(): Promise<Outcome> {
    return this.#outcome.promise;
  }

  succeed(rows: Outcome): void {
    this.#settle();
    this.#outcome.resolve(rows);
  }

  fail(error: unknown): void {
    this.#settle();
    this.#outcome.reject(error as Error);
  }

  #takeBack(reason: unknown): void {
    this.fail(this.sent ? new AmbiguousEnqueueError({ cause: reason }) : reason);
  }

  #settle(): void {
    this.settled = true;
    this.#stopWaiting?.();
  }
}
