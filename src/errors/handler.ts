import { SluiceError } from './base.js';
import { InvalidOptionError } from './settings.js';

/** That of pgqrs' delays: unsigned 32-bit seconds. */
const MAX_SECONDS = 4_294_967_295;

/** Thrown by a handler: the message is a dead letter at once, however often it was delivered. */
export class DeadLetter extends SluiceError {
  readonly code = 'DEAD_LETTER';

  /**
   * @param reason what an operator will find and can filter by
   * @param options with the error that led to it as `cause`
   * @example
   * throw new DeadLetter('no such customer');
   */
  constructor(
    readonly reason = 'no reason given',
    options?: ErrorOptions,
  ) {
    super(`dead letter: ${reason}`, options);
  }
}

/** Thrown by a handler: it failed, and is to be tried again after that time, unless it was the last attempt. */
export class RetryAfter extends SluiceError {
  readonly code = 'RETRY_AFTER';

  /**
   * @param seconds above 0: what a header that is missing makes of it, 0 or NaN, would use up all deliveries at once
   * @throws {InvalidOptionError} it is not; for the message that is a failure as any other
   * @example
   * throw new RetryAfter(Number(response.headers.get('retry-after')) || 60);
   */
  constructor(
    readonly seconds: number,
    options?: ErrorOptions,
  ) {
    super(`retry after ${seconds} s`, options);
    if (!(typeof seconds === 'number' && seconds > 0 && seconds <= MAX_SECONDS)) {
      const given = typeof seconds === 'number' ? String(seconds) : `a ${typeof seconds}`;
      throw new InvalidOptionError('the seconds of RetryAfter', `above 0, at most ${MAX_SECONDS}`, given);
    }
  }
}

/** Why a handler's signal aborts: its message may be somebody else's by now, so what it does may be done twice. */
export class LeaseLostError extends SluiceError {
  readonly code = 'LEASE_LOST';
  constructor(
    readonly messageId: string,
    options?: ErrorOptions,
  ) {
    super(
      `the lease of message ${messageId} is over: it was taken over or settled elsewhere, or could not be renewed in time`,
      options,
    );
  }
}

/** Why a handler's signal aborts: it did not end within the time that a shutdown leaves. Its message goes back. */
export class ShutdownError extends SluiceError {
  readonly code = 'SHUTDOWN';
  constructor(readonly seconds: number) {
    super(
      `the handler did not end within the ${seconds} s that a shutdown leaves; its message goes back into the queue`,
    );
  }
}
