import { EventEmitter } from 'node:events';
import type { Db } from './db.js';
import {
  ClosedError,
  type LeaseLostError,
  SchemaNotInstalledError,
  WorkerFencedError,
  WorkerSuspendedError,
} from './errors/index.js';
import type { Failure } from './consume/outcome.js';
import type { Message } from './message.js';
import type { Incarnation } from './sql/workers.js';
import type { Id, Queue, WorkerStatus } from './types.js';
import { type Beat, Heart } from './worker-heart.js';
import { Readiness } from './worker-readiness.js';
import { register, type Registration, type WorkerOptions } from './worker-registration.js';
import { type Age, limitOf, type WorkerAction, WorkerRow } from './worker-row.js';

export type { Registration, WorkerOptions } from './worker-registration.js';

/**
 * Emitted in a turn of their own: what a listener throws is an uncaught exception, as with any EventEmitter, and no
 * failure of what it was told about.
 */
export interface WorkerEvents {
  /** A heartbeat did not reach the server; the next one is tried as usual. */
  heartbeatError: [error: Error];
  /** Somebody changed this worker's status elsewhere; seen by a heartbeat, or whatever else asks the server. */
  status: [status: WorkerStatus];
  /** The registration was taken over or deleted. This process must stop: it gets nothing more to do. Once. */
  fenced: [error: WorkerFencedError];
  /** `close()` is over. */
  closed: [];
  /** Consumers only. Notifications arrive (again): messages come as soon as they are committed. */
  listening: [];
  /** Consumers only. Notifications do not arrive, so the consumer polls until they do. Once per outage. */
  deaf: [reason: Error];
  /** Consumers only. A claim, or a renewal of leases, failed for a passing reason; it is made again. */
  claimError: [error: Error];
  /** Consumers only. A round of housekeeping failed; each cause once, until a round passes without it. */
  housekeepingError: [error: Error];
  /** Consumers only. A handler failed, and its message will be tried again or is a dead letter. */
  failed: [failure: Failure];
  /** Consumers only. A message was taken over or settled elsewhere before a handler's outcome could be told. */
  leaseLost: [message: Message, error: LeaseLostError | undefined];
}

/**
 * A registered worker: one row of pgqrs_workers, kept alive by a timer of its own, however busy its process is.
 *
 * It takes on something new while it is ready or polling. ready -> suspended -> stopped is the way out; suspended ->
 * ready the way back. What this process does to its state counts at once, what others do when the next heartbeat
 * brings it. Every statement names the incarnation (`started_at`), so a process whose name was taken over changes
 * nothing more: it is fenced.
 */
export class Worker extends EventEmitter<WorkerEvents> implements AsyncDisposable {
  /** The name in pgqrs_workers. */
  readonly workerName: string;
  readonly #self: Incarnation;
  readonly #row: WorkerRow;
  readonly #readiness = new Readiness(() => this.#obstacle());
  readonly #stopBeating: () => void;
  /** Since when no beat has arrived, where the last one failed. */
  #beatAt = performance.now();
  #beatFailed = false;
  /** Asked and not answered, and how often it was asked. */
  #asking = 0;
  #asked = 0;
  #status: WorkerStatus = 'ready';
  #fenced: WorkerFencedError | undefined;
  #leaving = false;
  #closing: Promise<void> | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  protected constructor(
    protected readonly db: Db,
    { name, self, intervalSeconds }: Registration,
  ) {
    super();
    this.workerName = name;
    this.#self = self;
    this.#row = new WorkerRow(db.urgent, self, {
      gone: () => this.fence(),
      found: (status) => this.#found(status),
    });
    this.#stopBeating = Heart.of(db).join(intervalSeconds * 1_000, { self, beats: () => this.#beats() });
  }

  /** Registers a worker of a queue and returns what a subclass' constructor needs. */
  protected static register(db: Db, queue: Queue, options: WorkerOptions): Promise<Registration> {
    return register(db, queue, options);
  }

  get workerId(): Id {
    return this.#self.id;
  }

  /** What statements name to prove that they come from this life of the worker. */
  protected get incarnation(): Incarnation {
    return this.#self;
  }

  /** The status as the server has it now. @throws {WorkerFencedError} */
  status(): Promise<WorkerStatus> {
    return this.#ask((row) => row.status());
  }

  /**
   * Whether the last heartbeat is at most that old, by the server's clock. Where beats have been failing for longer than
   * that, the server is not asked: it may be out of reach.
   * @throws {WorkerFencedError}
   */
  async isHealthy(age: Age): Promise<boolean> {
    const limitMs = limitOf(age) * 1_000;
    this.assertNotFenced();
    if (this.#beatFailed && performance.now() - this.#beatAt > limitMs) return false;
    return this.#ask((row) => row.isHealthy(age));
  }

  /**
   * Sends a heartbeat now, beside the timer's. Where it finds the worker interrupted, the worker suspends itself.
   * @throws {WorkerFencedError}
   */
  heartbeat(): Promise<void> {
    return this.#ask(async (row) => {
      if ((await row.heartbeat()) === 'interrupted') this.#become(await row.yield());
    });
  }

  /** ready, polling or interrupted -> suspended. @throws {InvalidStateTransitionError | WorkerFencedError} */
  suspend(): Promise<void> {
    return this.#move('suspend');
  }

  /** suspended -> ready. @throws {InvalidStateTransitionError | WorkerFencedError} */
  resume(): Promise<void> {
    return this.#move('resume');
  }

  /** ready or polling -> polling: may be interrupted. @throws {InvalidStateTransitionError | WorkerFencedError} */
  poll(): Promise<void> {
    return this.#move('poll');
  }

  /** polling -> ready. @throws {InvalidStateTransitionError | WorkerFencedError} */
  completePoll(): Promise<void> {
    return this.#move('completePoll');
  }

  /**
   * polling -> interrupted; the next heartbeat suspends the worker.
   * @throws {InvalidStateTransitionError | WorkerFencedError}
   */
  interrupt(): Promise<void> {
    return this.#move('interrupt');
  }

  /** suspended -> stopped; the heartbeat ends. @throws {InvalidStateTransitionError | WorkerFencedError} */
  async shutdown(): Promise<void> {
    await this.#move('shutdown');
    this.#stopBeating();
  }

  /**
   * Suspends and shuts down, from whatever state; a fenced worker has nothing left to leave. Twice is fine.
   * @throws {ConnectionError | TimeoutError} the server could not be told; the registration goes stale by itself
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  protected assertNotFenced(): void {
    if (this.#fenced) throw this.#fenced;
  }

  /** Not for a worker that is fenced, or that has stopped, here or elsewhere; suspended it may be. */
  protected assertRunning(): void {
    const obstacle = this.#obstacle();
    if (obstacle && !(obstacle instanceof WorkerSuspendedError)) throw obstacle;
  }

  /**
   * Something new may begin.
   * @throws {WorkerFencedError}
   * @throws {ClosedError} it is stopped, here or elsewhere, or closing
   * @throws {WorkerSuspendedError} it is suspended or interrupted
   */
  protected assertReady(): void {
    this.#readiness.assert();
  }

  /**
   * Waits until something new may begin: not at all, or as long as the worker is suspended or interrupted. Rejects as
   * soon as it is fenced (WorkerFencedError), stopped or closing (ClosedError), or with the signal's reason.
   */
  protected whenReady(signal?: AbortSignal): Promise<void> {
    return this.#readiness.when(signal);
  }

  /** Has `watcher` called whenever assertReady() may have another answer. @returns what ends that */
  protected watchReadiness(watcher: () => void): () => void {
    return this.#readiness.watch(watcher);
  }

  /**
   * Nothing new begins from now on. The beginning of every close(): a subclass that waits for what is under way calls
   * it before that, or would wait for those who wait until they may begin.
   */
  protected leave(): void {
    this.#leaving = true;
    this.#readiness.changed();
  }

  protected fence(): WorkerFencedError {
    if (!this.#fenced) {
      this.#stopBeating();
      this.#fenced = new WorkerFencedError(this.workerName);
      this.#readiness.changed();
      const fenced = this.#fenced;
      // Not in the middle of whatever found it out: a listener that throws must not break that.
      queueMicrotask(() => this.emit('fenced', fenced));
    }
    return this.#fenced;
  }

  /** Why nothing new may begin; a suspension is the one reason that passes. */
  #obstacle(): Error | undefined {
    if (this.#fenced) return this.#fenced;
    if (this.#leaving || this.#status === 'stopped') return new ClosedError(`worker ${this.workerName}`);
    if (this.#status === 'suspended' || this.#status === 'interrupted')
      return new WorkerSuspendedError(this.workerName, this.#status);
    return undefined;
  }

  #move(action: WorkerAction): Promise<void> {
    return this.#ask(async (row) => this.#become(await row.move(action)));
  }

  /** One at a time, so that no answer is older than what is known: a beat must not report our own last step as news. */
  async #ask<T>(work: (row: WorkerRow) => Promise<T>): Promise<T> {
    this.assertNotFenced();
    this.#asking++;
    this.#asked++;
    const turn = this.#turn.then(() => work(this.#row)).finally(() => this.#asking--);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  #found(status: WorkerStatus): void {
    if (status === this.#status || this.#closing) return;
    this.#become(status);
    queueMicrotask(() => this.emit('status', status));
  }

  #become(status: WorkerStatus): void {
    this.#status = status;
    this.#readiness.changed();
  }

  async #close(): Promise<void> {
    this.leave();
    this.#stopBeating();
    try {
      // One step: whether it was suspended before, nobody could have seen.
      if (!this.#fenced) await this.#row.stop();
    } catch (error) {
      // After an uninstall() there is no registration left either.
      if (!(error instanceof SchemaNotInstalledError)) throw error;
    } finally {
      this.#become('stopped');
      queueMicrotask(() => this.emit('closed'));
    }
  }

  /** A beat of all workers of this process is about to be sent. */
  #beats(): (beat: Beat) => void {
    const sentAt = performance.now();
    const { asking, asked } = { asking: this.#asking, asked: this.#asked };
    return (beat) => {
      this.#beatFailed = beat instanceof Error;
      if (beat instanceof Error) {
        // Not in the middle of the others' beats: a listener that throws must not end those.
        if (!this.#fenced) queueMicrotask(() => this.emit('heartbeatError', beat));
        return;
      }
      this.#beatAt = sentAt;
      if (beat === undefined) this.fence();
      // What it found may be older than what was asked meanwhile, and is told again by the next one.
      else if (asking === 0 && asked === this.#asked) this.#beatFound(beat);
    };
  }

  #beatFound(status: WorkerStatus): void {
    this.#found(status);
    if (status !== 'interrupted') return;
    const yielding = this.#ask(async (row) => this.#become(await row.yield()));
    yielding.catch((error: unknown) => {
      if (!this.#fenced) queueMicrotask(() => this.emit('heartbeatError', error as Error));
    });
  }
}
