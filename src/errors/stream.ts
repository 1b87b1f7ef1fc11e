import { types } from 'node:util';
import { SluiceError } from './base.js';

/** A stream or an ingest ended because its signal aborted. `cause` is the signal's reason. */
export class AbortError extends SluiceError {
  /** As Node's own. */
  readonly code = 'ABORT_ERR';
  constructor(options?: ErrorOptions) {
    super('The operation was aborted', options);
  }
}

/** An ingest ended because its source, or one of its callbacks, threw something. That is the `cause`. */
export class IngestError extends SluiceError {
  readonly code = 'INGEST_FAILED';
  constructor(thrown: unknown) {
    super(`the source or a callback failed: ${wordsOf(thrown)}`, { cause: thrown });
  }
}

/** Another run has taken the stream over; this one must stop. */
export class StreamFencedError extends SluiceError {
  readonly code = 'STREAM_FENCED';
  constructor(readonly stream: string) {
    super(`stream ${stream} was taken over by another run`);
  }
}

/** The server lost commits that it had confirmed (an asynchronous fail-over). Restart the source after `position`. */
export class StreamRegressedError extends SluiceError {
  readonly code = 'STREAM_REGRESSED';
  constructor(
    readonly stream: string,
    readonly position: string,
  ) {
    super(
      `the server lost confirmed commits of stream ${stream}; restart its source after position ${position}`,
    );
  }
}

/** The stream's ledger row is gone. */
export class StreamNotFoundError extends SluiceError {
  readonly code = 'STREAM_NOT_FOUND';
  constructor(readonly stream: string) {
    super(`the ledger row of stream ${stream} is gone: its worker was swept as dead, or somebody deleted it`);
  }
}

/** More items were rejected than `maxRejects` allows. Batches before the last one are committed. */
export class TooManyRejectsError extends SluiceError {
  readonly code = 'TOO_MANY_REJECTS';
  constructor(
    readonly rejected: number,
    /** Items taken from the source. */
    readonly items: number,
    readonly limit: number | { ratio: number },
  ) {
    const allowed = typeof limit === 'number' ? `${limit}` : `a share of ${limit.ratio}`;
    super(`${rejected} of ${items} items were rejected; maxRejects allows ${allowed}`);
  }
}

/** The source of a resumed stream has no item at the position where it has to go on. Nothing was sent. */
export class ResumePositionError extends SluiceError {
  readonly code = 'RESUME_POSITION_NOT_FOUND';
  constructor(
    readonly stream: string,
    readonly position: string,
    /** Items that the source gave. */
    readonly items: number,
  ) {
    super(
      `stream ${stream} has to go on behind position ${position}, but its source ended before, after ${items} items; ` +
        'give it the same source as before, or start anew with admin.deleteStream()',
    );
  }
}

/** What an error says of itself. Anything else is not asked: it may be a Proxy. */
function wordsOf(thrown: unknown): string {
  if (types.isNativeError(thrown)) return thrown.message;
  return `it threw ${thrown === null ? 'null' : typeof thrown} instead of an error`;
}
