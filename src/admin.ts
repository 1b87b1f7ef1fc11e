import type pg from 'pg';
import * as check from './check.js';
import type { Config } from './config.js';
import { Db } from './db.js';
import {
  QueueAlreadyExistsError,
  QueueInUseError,
  QueueNotFoundError,
  SchemaMismatchError,
} from './errors.js';
import * as migrate from './migrate.js';
import * as queues from './sql/queues.js';
import { deleteWorker } from './sql/workers.js';
import type { Id, Queue } from './types.js';

/** PostgreSQL indexes the name, and an index entry holds at most about 2,700 bytes. */
const MAX_QUEUE_NAME_BYTES = 2_000;

/** The operator's side: the schema, the queues, the workers. Needs no worker of its own. */
export class Admin implements AsyncDisposable {
  private constructor(
    private readonly db: Db,
    private readonly ownsDb: boolean,
  ) {}

  /** An Admin with a pool of its own; end it with `close()`. Connects at the first call. */
  // eslint-disable-next-line @typescript-eslint/require-await -- asynchronous like pgqrs' Admin::new
  static async create(config: Config): Promise<Admin> {
    const { schema, maxConnections, connectionTimeoutSeconds } = config;
    const db = Db.open(config.dsn, {
      schema,
      maxConnections,
      connectTimeoutMs: connectionTimeoutSeconds * 1_000,
    });
    return new Admin(db, true);
  }

  /** @internal for connect(), which shares one Db */
  static over(db: Db): Admin {
    return new Admin(db, false);
  }

  /** The pool, for `Producer.create` and `Consumer.create`. */
  get pool(): pg.Pool {
    return this.db.pool;
  }

  /**
   * Creates the tables, or brings those of an earlier version or of pgqrs 0.15.2/0.15.3 to this version, without
   * touching their data. Any number of processes may call it at once, and again.
   * @throws {SchemaMismatchError} the tables are of another pgqrs version, or of a newer pg-sluice
   * @throws {PermissionDeniedError} the role may not create in the schema
   */
  async install(): Promise<void> {
    await migrate.install(this.db);
  }

  /**
   * Checks tables, columns, types, indexes, triggers, functions and references. Reads the whole messages table.
   * @throws {SchemaMismatchError} with every difference in `findings`
   */
  async verify(): Promise<void> {
    const findings = await migrate.inspect(this.db);
    if (findings.length > 0)
      throw new SchemaMismatchError('the schema is not as it must be; run admin.install()', findings);
  }

  /** Removes everything that `install()` made, messages included. Leaves the schema and foreign tables in it. */
  async uninstall(): Promise<void> {
    await migrate.uninstall(this.db);
  }

  /**
   * @param name any text up to 2,000 bytes without NUL
   * @throws {QueueAlreadyExistsError}
   */
  async createQueue(name: string): Promise<Queue> {
    checkQueueName(name);
    const queue = await queues.insertQueue(this.db, name);
    if (!queue) throw new QueueAlreadyExistsError(name);
    return queue;
  }

  /** @throws {QueueNotFoundError} */
  async getQueue(name: string): Promise<Queue> {
    const queue = await queues.selectQueue(this.db, checkQueueName(name));
    if (!queue) throw new QueueNotFoundError(name);
    return queue;
  }

  /** All queues, newest first. */
  async listQueues(): Promise<Queue[]> {
    return queues.listQueues(this.db);
  }

  /**
   * Deletes an empty queue.
   * @throws {QueueNotFoundError}
   * @throws {QueueInUseError} workers or messages, archived ones too, still refer to it
   */
  async deleteQueue(name: string): Promise<void> {
    checkQueueName(name);
    await this.db.transaction(async (session) => {
      const id = await queues.lockQueue(session, name);
      if (id === undefined) throw new QueueNotFoundError(name);
      const { workers, messages } = await queues.countQueueUse(session, id);
      if (workers > 0 || messages > 0) throw new QueueInUseError(name, workers, messages);
      await queues.deleteQueue(session, id);
    });
  }

  /**
   * Deletes all messages of a queue, leased and archived ones too, but no worker (pgqrs deletes those as well).
   * @returns how many messages went
   * @throws {QueueNotFoundError}
   */
  async purgeQueue(name: string): Promise<number> {
    const { id } = await this.getQueue(name);
    return this.db.transaction((session) => queues.purgeQueue(session, id));
  }

  /**
   * Deletes a worker's registration.
   * @returns whether there was one
   * @throws {DatabaseError} 23503: messages still refer to it
   */
  async deleteWorker(workerId: Id): Promise<boolean> {
    check.id('workerId', workerId);
    return this.db.transaction((session) => deleteWorker(session, workerId));
  }

  /** Ends the pool, if it is the Admin's own. Twice is fine. */
  async close(): Promise<void> {
    if (this.ownsDb) await this.db.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function checkQueueName(name: string): string {
  return check.text('queue name', name, MAX_QUEUE_NAME_BYTES);
}
