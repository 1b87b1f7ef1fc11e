import { SluiceError } from './base.js';

/**
 * The connection was lost, or the answer did not come in time, after the messages had been sent: whether they are in
 * the queue is unknown. So they were not sent again.
 */
export class AmbiguousEnqueueError extends SluiceError {
  readonly code = 'AMBIGUOUS_ENQUEUE';
  constructor(options?: ErrorOptions) {
    super(
      'no answer came after the message was sent, so it may be in the queue or not; ' +
        'look for it before you enqueue it again, or accept that it may be there twice',
      options,
    );
  }
}

/** The producer's rate limit has no room now, and was told to refuse instead of waiting. Nothing was sent or charged. */
export class RateLimitedError extends SluiceError {
  readonly code = 'RATE_LIMITED';
  constructor(
    /** After so many ms the same call succeeds, if nobody else uses the producer meanwhile. */
    readonly retryAfterMs: number,
    messages: number,
    perSecond: number,
  ) {
    super(
      `the limit of ${perSecond} messages per second has no room for ${messages} more now; ` +
        `try again in ${retryAfterMs} ms, or set whenRateLimited to 'wait'`,
    );
  }
  override get transient() {
    return true;
  }
}
