import { EventEmitter } from 'node:events';
import { hostname as localHostname } from 'node:os';
import { randomUUID } from 'node:crypto';
import * as check from './check.js';
import type { Db } from './db.js';
import { InvalidStateTransitionError, WorkerAlreadyActiveError, WorkerFencedError } from './errors.js';
import * as sql from './sql/workers.js';
import type { Id, WorkerStatus } from './types.js';

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
  /** Silence in seconds after which another process may take over this worker's name. @default 60 */
  staleAfterSeconds?: number;
}

export interface WorkerEvents {
  /** A heartbeat did not reach the server; the next one is tried as usual. */
  heartbeatError: [error: Error];
  /** Somebody changed this worker's status elsewhere; seen by a heartbeat. */
  status: [status: WorkerStatus];
  /** The registration was taken over or deleted. This process must stop; every further call fails. */
  fenced: [error: WorkerFencedError];
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

/** What each transition asks for and leads to; the reasons are pgqrs' words. */
const TRANSITIONS = {
  suspend: {
    from: ['ready', 'polling', 'interrupted'],
    to: 'suspended',
    reason: 'Worker must be Ready, Polling, or Interrupted to suspend',
  },
  resume: { from: ['suspended'], to: 'ready', reason: 'Worker must be in Suspended state to resume' },
  shutdown: { from: ['suspended'], to: 'stopped', reason: 'Worker must be in Suspended state to shutdown' },
} as const satisfies Record<string, { from: readonly WorkerStatus[]; to: WorkerStatus; reason: string }>;

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

  /** Registers a worker of `queueId` and returns what a subclass' constructor needs. */
  protected static async register(db: Db, queueId: Id, options: WorkerOptions): Promise<Registration> {
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
    const self = await sql.registerWorker(db, name, queueId, staleAfterSeconds);
    if (!self)
      throw new WorkerAlreadyActiveError(name, (await sql.selectStatusByName(db, name)) ?? 'just gone');
    await sql.sweepStreams(db);
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
    const status = await sql.beat(this.db.urgent, this.#self);
    if (status === undefined) throw this.fence();
    if (status !== this.#status) {
      this.#status = status;
      this.emit('status', status);
    }
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

  /** Suspends and shuts down, from whatever state. Twice is fine; a fenced worker has nothing left to leave. */
  async close(): Promise<void> {
    this.#disarm();
    try {
      const status = await this.status();
      if (status === 'stopped') return;
      if (status !== 'suspended') await this.suspend();
      await this.shutdown();
    } catch (error) {
      if (!(error instanceof WorkerFencedError)) throw error;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  protected assertNotFenced(): void {
    if (this.#fenced) throw this.#fenced;
  }

  async #row() {
    this.assertNotFenced();
    const row = await sql.selectWorker(this.db.urgent, this.#self);
    if (!row) throw this.fence();
    return row;
  }

  async #move(action: keyof typeof TRANSITIONS): Promise<void> {
    const { from, to, reason } = TRANSITIONS[action];
    if (await sql.moveWorker(this.db.urgent, this.#self, from, to)) {
      this.#status = to;
      return;
    }
    throw new InvalidStateTransitionError((await this.#row()).status, to, reason);
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
    // Not when close() came in between.
    if (this.#timer === beating && this.#status !== 'stopped') this.#arm();
  }
}

function workerName({ hostname, port }: WorkerOptions): string {
  const host = check.text('hostname', hostname ?? localHostname(), 255);
  if (port === undefined) return `${host}-${randomUUID()}`;
  return `${host}:${check.integer('port', port, { min: 1, max: 65_535 })}`;
}
