import { randomUUID } from 'node:crypto';
import { hostname as localHostname } from 'node:os';
import * as check from './check.js';
import { CONFIG_FIELDS } from './config-fields.js';
import type { Db, Queryable } from './db.js';
import { DatabaseError, QueueNotFoundError, WorkerAlreadyActiveError } from './errors/index.js';
import { oneTransaction } from './on-client.js';
import * as sql from './sql/workers.js';
import type { Queue } from './types.js';

export interface WorkerOptions {
  /** First half of the worker's name. @default the machine's host name */
  hostname?: string;
  /**
   * Second half of the name, from 1 to 65535. With a port the name is `hostname:port` and belongs to one live process
   * at a time; without, it is `hostname-<uuid>` and always new.
   */
  port?: number;
  /** Seconds between two heartbeats, each up to a tenth early or late. @default 2 */
  heartbeatIntervalSeconds?: number;
  /**
   * Silence in seconds after which this process may take over the name from one that has not stopped: at least three
   * heartbeat intervals. @default 60, or three heartbeat intervals if that is more
   */
  staleAfterSeconds?: number;
}

export const WORKER: check.Names<WorkerOptions> = {
  hostname: true,
  port: true,
  heartbeatIntervalSeconds: true,
  staleAfterSeconds: true,
};

/** A worker's place in the table, as its constructor needs it. */
export interface Registration {
  name: string;
  self: sql.Incarnation;
  intervalSeconds: number;
}

const FOREIGN_KEY_VIOLATION = '23503';
/** Longest wait for the server. */
const ANSWER_MS = 30_000;

/** Heartbeats may be lost or late; a name is free for others only after at least this many intervals. */
const STALE_INTERVALS = 3;

/** Who stops between our two looks leaves the name free: seen so, it is asked for again, but not for ever. */
const ATTEMPTS = 3;

/**
 * Registers a worker of a queue.
 * @throws {WorkerAlreadyActiveError} a live worker has that name
 * @throws {QueueNotFoundError} the queue was deleted
 */
export async function register(db: Db, queue: Queue, options: WorkerOptions): Promise<Registration> {
  const intervalSeconds = check.number(
    'heartbeatIntervalSeconds',
    options.heartbeatIntervalSeconds ?? CONFIG_FIELDS.heartbeatIntervalSeconds.default,
    {
      min: 0.01,
      max: 3_600,
    },
  );
  const staleAfterSeconds = check.number(
    'staleAfterSeconds',
    options.staleAfterSeconds ?? Math.max(60, STALE_INTERVALS * intervalSeconds),
    { min: STALE_INTERVALS * intervalSeconds, max: 3_153_600_000 },
  );
  const name = workerName(options);
  const self = await oneTransaction(db, { what: 'registering the worker', ms: ANSWER_MS }, (session) =>
    claimName(session, name, queue, staleAfterSeconds),
  );
  db.hasWritten();
  // Housekeeping that any process may do: a role that only consumes need not be allowed to.
  await oneTransaction(db, { what: 'sweeping streams', ms: ANSWER_MS }, (on) =>
    sql.sweepStreams(on, self.id),
  ).catch(() => undefined);
  return { name, self, intervalSeconds };
}

async function claimName(
  on: Queryable,
  name: string,
  queue: Queue,
  staleAfterSeconds: number,
): Promise<sql.Incarnation> {
  for (let attempt = 1; ; attempt++) {
    const self = await sql.registerWorker(on, name, queue.id, staleAfterSeconds).catch((error: unknown) => {
      const gone = error instanceof DatabaseError && error.sqlState === FOREIGN_KEY_VIOLATION;
      throw gone ? new QueueNotFoundError(queue.name) : error;
    });
    if (self) return self;
    const status = (await sql.selectStatusByName(on, name)) ?? 'just gone';
    const free = status === 'stopped' || status === 'just gone';
    if (!free || attempt === ATTEMPTS) throw new WorkerAlreadyActiveError(name, status);
  }
}

function workerName({ hostname, port }: WorkerOptions): string {
  const host = check.text('hostname', hostname ?? localHostname(), 255);
  if (port === undefined) return `${host}-${randomUUID()}`;
  return `${host}:${check.integer('port', port, { min: 1, max: 65_535 })}`;
}
