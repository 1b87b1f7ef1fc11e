import { EventEmitter } from 'node:events';
import { hostname as localHostname } from 'node:os';
import { randomUUID } from 'node:crypto';
import * as check from './check.js';
import type { Db } from './db.js';
import {
  ClosedError,
  DatabaseError,
  InvalidStateTransitionError,
  QueueNotFoundError,
  SchemaNotInstalledError,
  WorkerAlreadyActiveError,
  WorkerFencedError,
} from './errors/index.js';
import * as sql from './sql/workers.js';
import type { Id, Queue, WorkerStatus } from './types.js';

export interface WorkerOptions {
  /** First half of the worker's name. @default the machine's host name */
  hostname?: string;
  /**
   * Second half of the name, from 1 to 65535. With a port the name is `hostname:port` and belongs to one live process
   * at a time; without, it is `hostname-<uuid>` and always new.
   */
  port?: number;
  /** Seconds between two heartbeats, each up to a tenth early or late. @default 5 */
  heartbeatIntervalSeconds?: number;
  /**
   * Silence in seconds after which this process may take over the name from one that has not stopped: at least three
   * heartbeat intervals. @default 60, or three heartbeat intervals if that is more
   */
  staleAfterSeconds?: number;
}

export interface WorkerEvents {
  /** A heartbeat did not reach the server; the next one is tried as usual. */
  heartbeatError: [error: Error];
  /** Somebody changed this worker's status elsewhere; seen by a heartbeat. */
  status: [status: WorkerStatus];
  /** The registration was taken over or deleted. This process must stop: it gets nothing more to do. Once. */
  fenced: [error: WorkerFencedError];
  /** `close()` is over. */
  closed: [];
  /** Consumers only. Notifications arrive (again): messages come as soon as they are committed. */
  listening: [];
  /** Consumers only. Notifications do not arrive, so the consumer polls until they do. Once per outage. */
  deaf: [reason: Error];
  /** Consumers only. A claim failed for a passing reason; it is made again. */
  claimError: [error: Error];
}

/** A worker's place in the table, as its constructor needs it. */
export interface Registration {
  name: string;
  self: sql.Incarnation;
  intervalSeconds: number;
}

interface Transition {
  from: readonly WorkerStatus[];
  to: WorkerStatus;
  reason: string;
}

/** What each transition asks for and leads to; the reasons are pgqrs' words. */
const TRANSITIONS: Record<'suspend' | 'resume' | 'shutdown', Transition> = {
  suspend: {
    from: ['ready', 'polling', 'interrupted'],
    to: 'suspended',
    reason: 'Worker must be Ready, Polling, or Interrupted to suspend',
  },
  resume: { from: ['suspended'], to: 'ready', reason: 'Worker must be in Suspended state to resume' },
  shutdown: { from: ['suspended'], to: 'stopped', reason: 'Worker must be in Suspended state to shutdown' },
};

/** What `close()` may find: any state but the last. */
const RUNNING: readonly WorkerStatus[] = ['ready', 'polling', 'interrupted', 'suspended'];

const FOREIGN_KEY_VIOLATION = '23503';

/** Heartbeats may be lost or late; a name is free for others only after at least this many intervals. */
const STALE_INTERVALS = 3;

/**
 * A registered worker: one row of pgqrs_workers, kept alive by a timer of its own, however busy its process is.
 *
 * ready -> suspended -> stopped is the way out; suspended -> ready the way back. Every statement names the incarnation
 * (`started_at`), so a process whose name was taken over changes nothing more: it is fenced.
 */
export class Worker extends EventEmitter<WorkerEvents> implements AsyncDisposable {
  /** The name in pgqrs_workers. */
  readonly workerName: string;
  readonly #self: sql.Incarnation;
  #status: WorkerStatus = 'ready';
  #fenced: WorkerFencedError | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;
  #turn: Promise<void> = Promise.resolve();
  readonly #intervalMs: number;

  protected constructor(
    protected readonly db: Db,
    { name, self, intervalSeconds }: Registration,
  ) {
    super();
    this.workerName = name;
    this.#self = self;
    this.#intervalMs = intervalSeconds * 1_000;
    this.#arm();
  }

  /** Registers a worker of a queue and returns what a subclass' constructor needs. */
  protected static async register(db: Db, queue: Queue, options: WorkerOptions): Promise<Registration> {
    const intervalSeconds = check.number('heartbeatIntervalSeconds', options.heartbeatIntervalSeconds ?? 5, {
      min: 0.01,
      max: 3_600,
    });
    const staleAfterSeconds = check.number(
      'staleAfterSeconds',
      options.staleAfterSeconds ?? Math.max(60, STALE_INTERVALS * intervalSeconds),
      { min: STALE_INTERVALS * intervalSeconds },
    );
    const name = workerName(options);
    const self = await sql.registerWorker(db, name, queue.id, staleAfterSeconds).catch((error: unknown) => {
      const gone = error instanceof DatabaseError && error.sqlState === FOREIGN_KEY_VIOLATION;
      throw gone ? new QueueNotFoundError(queue.name) : error;
    });
    if (!self)
      throw new WorkerAlreadyActiveError(name, (await sql.selectStatusByName(db, name)) ?? 'just gone');
    // Housekeeping that any process may do: a role that only consumes need not be allowed to.
    await sql.sweepStreams(db).catch(() => undefined);
    return { name, self, intervalSeconds };
  }

  get workerId(): Id {
    return this.#self.id;
  }

  /** What statements name to prove that they come from this life of the worker. */
  protected get incarnation(): sql.Incarnation {
    return this.#self;
  }

  /** The status as the server has it now. @throws {WorkerFencedError} */
  async status(): Promise<WorkerStatus> {
    return (await this.#row()).status;
  }

  /** Whether the last heartbeat is at most that old, by the server's clock. @throws {WorkerFencedError} */
  async isHealthy(age: { seconds?: number; minutes?: number }): Promise<boolean> {
    const limit = check.number('age', (age.seconds ?? 0) + (age.minutes ?? 0) * 60, { min: 0 });
    return (await this.#row()).heartbeatAgeSeconds <= limit;
  }

  /** Sends a heartbeat now, beside the timer's. @throws {WorkerFencedError} */
  async heartbeat(): Promise<void> {
    this.assertNotFenced();
    await this.#inTurn(async () => {
      const status = await sql.beat(this.db.urgent, this.#self);
      if (status === undefined) throw this.fence();
      if (status === this.#status || this.#closing) return;
      this.#status = status;
      this.emit('status', status);
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

  /** suspended -> stopped; the heartbeat ends. @throws {InvalidStateTransitionError | WorkerFencedError} */
  async shutdown(): Promise<void> {
    await this.#move('shutdown');
    this.#disarm();
  }

  /**
   * Suspends and shuts down, from whatever state; a fenced worker has nothing left to leave. Twice is fine.
   * @throws {ConnectionError} the server could not be told, within some seconds; the registration goes stale by itself
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

  /** Nothing new is begun by a worker that has stopped, here or elsewhere. */
  protected assertRunning(): void {
    this.assertNotFenced();
    if (this.#closing || this.#status === 'stopped') throw new ClosedError(`worker ${this.workerName}`);
  }

  async #row() {
    this.assertNotFenced();
    const row = await sql.selectWorker(this.db.urgent, this.#self);
    if (!row) throw this.fence();
    return row;
  }

  async #move(action: keyof typeof TRANSITIONS): Promise<void> {
    const { from, to, reason } = TRANSITIONS[action];
    this.assertNotFenced();
    await this.#inTurn(async () => {
      while (!(await sql.moveWorker(this.db.urgent, this.#self, from, to))) {
        const { status } = await this.#row();
        // Unless somebody has just moved it to where it may go from.
        if (!from.includes(status)) throw new InvalidStateTransitionError(status, to, reason);
      }
      this.#status = to;
    });
  }

  /** One at a time, so that no answer is older than what is known: a beat must not report our own last step as news. */
  async #inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    await turn;
  }

  async #close(): Promise<void> {
    this.#disarm();
    try {
      // One step: whether it was suspended before, nobody could have seen.
      if (!this.#fenced) await sql.moveWorker(this.db.urgent, this.#self, RUNNING, 'stopped');
    } catch (error) {
      // After an uninstall() there is no registration left either.
      if (!(error instanceof SchemaNotInstalledError)) throw error;
    } finally {
      this.#status = 'stopped';
      this.emit('closed');
    }
  }

  protected fence(): WorkerFencedError {
    if (!this.#fenced) {
      this.#disarm();
      this.#fenced = new WorkerFencedError(this.workerName);
      this.emit('fenced', this.#fenced);
    }
    return this.#fenced;
  }

  /** The next beat is set when the last one is over, so that a slow server never has two of them. */
  #arm(): void {
    const jitter = 0.9 + Math.random() * 0.2;
    this.#timer = setTimeout(() => void this.#beat(), this.#intervalMs * jitter).unref();
  }

  #disarm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  async #beat(): Promise<void> {
    const beating = this.#timer;
    try {
      await this.heartbeat();
    } catch (error) {
      if (this.#fenced) return;
      this.emit('heartbeatError', error as Error);
    }
    // Not when it was disarmed in between.
    if (this.#timer === beating) this.#arm();
  }
}

function workerName({ hostname, port }: WorkerOptions): string {
  const host = check.text('hostname', hostname ?? localHostname(), 255);
  if (port === undefined) return `${host}-${randomUUID()}`;
  return `${host}:${check.integer('port', port, { min: 1, max: 65_535 })}`;
}
