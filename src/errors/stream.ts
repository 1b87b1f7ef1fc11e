import { SluiceError } from './base.js';

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
