/** How far an ingest had come when it failed: what a caller needs to go on from there. */
export interface IngestProgress {
  /** Rows that are in the queue for certain: the first `committed` rows of the source, no more and no fewer. */
  committed: number;
  /** Source position of the last committed row. */
  position: string;
  /**
   * Set when nobody could tell what became of the last batch, because the server stayed away after the COMMIT was sent,
   * or another run has taken the stream further since: that one batch may be in the queue too, behind the `committed` rows.
   */
  inDoubt?: true;
}

/** Base of every error that pg-sluice throws. `code` is stable across releases: switch on it, not on the message. */
export abstract class SluiceError extends Error {
  abstract readonly code: string;
  /** Set where the error is what ended a ProducerStream or an ingest: how far that came. */
  progress?: IngestProgress;

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }

  /** Whether the same call may succeed if it is simply made again. */
  get transient(): boolean {
    return false;
  }
}

/** Something did not happen within its deadline. */
export class TimeoutError extends SluiceError {
  readonly code = 'TIMEOUT';
  readonly #what: string;
  constructor(
    what: string,
    readonly ms: number,
  ) {
    super(`${what} took longer than ${Math.round(ms)} ms`);
    this.#what = what;
  }
  override get transient() {
    return true;
  }

  /** The same of a longer time, of which this one was the end. @internal */
  of(ms: number): TimeoutError {
    return new TimeoutError(this.#what, ms);
  }
}

/** The object was closed before or during the call. */
export class ClosedError extends SluiceError {
  readonly code = 'CLOSED';
  constructor(what: string) {
    super(`${what} is closed`);
  }
}
