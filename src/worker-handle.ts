import * as check from './check.js';
import type { Db } from './db.js';
import { WorkerNotFoundError } from './errors/index.js';
import type { Id, IdLike, WorkerInfo, WorkerStatus } from './types.js';
import { type Age, WorkerRow } from './worker-row.js';

/**
 * Any registered worker by its id, whatever process or client it belongs to, pgqrs' included. A process of ours learns
 * of a change by its next heartbeat, a poller of pgqrs' by its next look. The name may be registered anew: the handle
 * then means the new registration, which has the same id.
 *
 * @example
 * await sluice.admin.worker(id).suspend(); // whatever it is doing, it takes on nothing new
 */
export class WorkerHandle {
  readonly workerId: Id;
  readonly #row: WorkerRow;

  /** @internal use admin.worker() */
  constructor(db: Db, workerId: IdLike) {
    const id = check.id('workerId', workerId);
    this.workerId = id;
    // An operator's word must not wait behind the work.
    this.#row = new WorkerRow(
      db.urgent,
      { id, incarnation: null },
      { gone: () => new WorkerNotFoundError(id) },
    );
  }

  /** Its row. @throws {WorkerNotFoundError} */
  info(): Promise<WorkerInfo> {
    return this.#row.info();
  }

  /** @throws {WorkerNotFoundError} */
  status(): Promise<WorkerStatus> {
    return this.#row.status();
  }

  /** Whether its last heartbeat is at most that old, by the server's clock. @throws {WorkerNotFoundError} */
  isHealthy(age: Age): Promise<boolean> {
    return this.#row.isHealthy(age);
  }

  /** Sends a heartbeat in its name. @throws {WorkerNotFoundError} */
  async heartbeat(): Promise<void> {
    await this.#row.heartbeat();
  }

  /** ready, polling or interrupted -> suspended. @throws {InvalidStateTransitionError | WorkerNotFoundError} */
  async suspend(): Promise<void> {
    await this.#row.move('suspend');
  }

  /** suspended -> ready. @throws {InvalidStateTransitionError | WorkerNotFoundError} */
  async resume(): Promise<void> {
    await this.#row.move('resume');
  }

  /**
   * polling -> interrupted: asks a poller to stop; it ends suspended.
   * @throws {InvalidStateTransitionError | WorkerNotFoundError}
   */
  async interrupt(): Promise<void> {
    await this.#row.move('interrupt');
  }

  /**
   * suspended -> stopped. Unlike a consumer's own shutdown() it does not ask whether the worker still holds messages:
   * those come back when their leases end.
   * @throws {InvalidStateTransitionError | WorkerNotFoundError}
   */
  async shutdown(): Promise<void> {
    await this.#row.move('shutdown');
  }
}
