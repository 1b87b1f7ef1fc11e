import type { WorkerStatus } from '../types.js';
import { SluiceError } from './base.js';

/** A live worker already goes by that name. */
export class WorkerAlreadyActiveError extends SluiceError {
  readonly code = 'WORKER_ALREADY_ACTIVE';
  constructor(
    readonly worker: string,
    readonly status: string,
  ) {
    // A suspended one is not lost: its own process may go on.
    const found =
      status === 'suspended'
        ? 'is suspended. Use resume() to reactivate. Or'
        : `is already registered and ${status};`;
    super(
      `worker "${worker}" ${found} stop it, wait until its heartbeat is stale, or choose another hostname or port`,
    );
  }
}

/** This worker's registration was taken over or deleted: its process must stop working as it. */
export class WorkerFencedError extends SluiceError {
  readonly code = 'WORKER_FENCED';
  constructor(readonly worker: string) {
    super(`worker ${worker} is no longer registered as this process: it was taken over or deleted`);
  }
}

/** A worker cannot go from its present state to the wanted one. */
export class InvalidStateTransitionError extends SluiceError {
  readonly code = 'INVALID_STATE_TRANSITION';
  constructor(
    readonly from: WorkerStatus,
    readonly to: WorkerStatus,
    /** What the worker would have to be, in pgqrs' words. */
    readonly reason: string,
  ) {
    super(`worker cannot go from ${from} to ${to}: ${reason}`);
  }
}

/** Messages, archived ones too, or workflow runs still refer to the worker, so it was not deleted. */
export class WorkerInUseError extends SluiceError {
  readonly code = 'WORKER_IN_USE';
  constructor(readonly workerId: string) {
    super(
      `messages, perhaps archived ones, or workflow runs still refer to worker ${workerId}; ` +
        'delete those first, for instance with admin.purgeQueue()',
    );
  }
}

/** The worker is suspended, or was interrupted: it takes on nothing new until it is resumed. */
export class WorkerSuspendedError extends SluiceError {
  readonly code = 'WORKER_SUSPENDED';
  constructor(
    readonly worker: string,
    readonly status: WorkerStatus,
  ) {
    super(`worker ${worker} is ${status} and takes on nothing new; resume() it first`);
  }
}

/** There is no worker with that id (any more). */
export class WorkerNotFoundError extends SluiceError {
  readonly code = 'WORKER_NOT_FOUND';
  constructor(readonly workerId: string) {
    super(`worker ${workerId} does not exist; admin.listWorkers() shows those that do`);
  }
}

/** The consumer still holds messages, so it was not shut down. */
export class WorkerHasPendingMessagesError extends SluiceError {
  readonly code = 'WORKER_HAS_PENDING_MESSAGES';
  constructor(
    readonly worker: string,
    /** Messages that it holds. */
    readonly count: number,
  ) {
    super(
      `consumer ${worker} still holds ${count} message(s); archive, delete or release them before shutdown(), ` +
        'or use close(), which leaves them to their leases',
    );
  }
}
