import { shown } from '../shown.js';
import { SluiceError } from './base.js';

/** There is no queue of that name (any more). */
export class QueueNotFoundError extends SluiceError {
  readonly code = 'QUEUE_NOT_FOUND';
  constructor(readonly queue: string) {
    super(`queue ${shown(queue)} does not exist; create it with admin.createQueue()`);
  }
}

/** A queue of that name is already there. */
export class QueueAlreadyExistsError extends SluiceError {
  readonly code = 'QUEUE_ALREADY_EXISTS';
  constructor(readonly queue: string) {
    super(`queue ${shown(queue)} already exists; use admin.getQueue() to open it`);
  }
}

/** The queue still has workers, messages or workflows, so it was not deleted. */
export class QueueInUseError extends SluiceError {
  readonly code = 'QUEUE_IN_USE';
  constructor(
    readonly queue: string,
    readonly workers: number,
    /** Counted up to 1,000; archived ones, which have no index, only where nothing else is found, and then as one. */
    readonly messages: number,
    /** Workflows of pgqrs. */
    readonly workflows: number,
  ) {
    super(
      `queue ${shown(queue)} is in use by ${workers} worker(s), ${messages} message(s), ${workflows} workflow(s); ` +
        'purge it with admin.purgeQueue() and delete its workers first',
    );
  }
}
