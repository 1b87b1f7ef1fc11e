import type pg from 'pg';
import * as check from './check.js';
import type { Config } from './config.js';
import { Db } from './db.js';
import {
  DatabaseError,
  QueueAlreadyExistsError,
  QueueInUseError,
  QueueNotFoundError,
  SchemaMismatchError,
  WorkerInUseError,
} from './errors/index.js';
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
   *
   * An empty schema is filled in one transaction. Over tables in use it goes step by step and never blocks writers for
   * more than half a second at a time; interrupted, it goes on where it stopped when it is called again.
   * @throws {SchemaMismatchError} the tables are of another pgqrs version, of a newer pg-sluice, or changed by somebody
   * in a way that only a person can mend; nothing is changed then
   * @throws {PermissionDeniedError} the role may not create in the schema, or is not the owner of the tables
   * @throws {TimeoutError} another transaction held a lock on the tables for a minute; call it again
   */
  async install(): Promise<void> {
    await migrate.install(this.db);
  }

  /**
   * Checks tables, columns, types, indexes, triggers, functions and references. Reads the whole messages table.
   * @throws {SchemaMismatchError} with every difference in `findings`
   * @throws {SchemaNotInstalledError} there are no tables at all
   */
  async verify(): Promise<void> {
    const { findings, mendable } = await migrate.inspect(this.db);
    if (findings.length === 0) return;
    const remedy = mendable ? 'admin.install() mends this' : 'admin.install() cannot mend all of this';
    throw new SchemaMismatchError(`the schema is not as it must be; ${remedy}`, findings);
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
   * @throws {QueueInUseError} workers, messages (archived ones too) or pgqrs workflows still refer to it
   */
  async deleteQueue(name: string): Promise<void> {
    const { id } = await this.getQueue(name);
    // Asked first without any lock: the answer may take a look at every message.
    await this.#refuseInUse(name, id);
    try {
      if (!(await this.db.transaction((session) => queues.deleteQueue(session, id))))
        throw new QueueNotFoundError(name);
    } catch (error) {
      // Somebody was faster.
      if (isReferenced(error)) await this.#refuseInUse(name, id);
      throw error;
    }
  }

  /**
   * Deletes all messages of a queue, leased and archived ones too, but no worker (pgqrs deletes those as well).
   * @returns how many messages went
   * @throws {QueueNotFoundError}
   * @throws {DatabaseError} 23503: runs of a pgqrs workflow refer to some of them; none was deleted
   */
  async purgeQueue(name: string): Promise<number> {
    const { id } = await this.getQueue(name);
    return this.db.transaction((session) => queues.purgeQueue(session, id));
  }

  /**
   * Deletes a worker's registration. A live process notices, and stops working as that worker.
   * @returns whether there was one
   * @throws {WorkerInUseError} messages, archived ones too, or workflow runs still refer to it
   */
  async deleteWorker(workerId: Id): Promise<boolean> {
    check.id('workerId', workerId);
    try {
      return await this.db.transaction((session) => deleteWorker(session, workerId));
    } catch (error) {
      throw isReferenced(error) ? new WorkerInUseError(workerId) : error;
    }
  }

  /** Ends the pool, if it is the Admin's own. Twice is fine. */
  async close(): Promise<void> {
    if (this.ownsDb) await this.db.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #refuseInUse(name: string, id: Id): Promise<void> {
    const { workers, messages, workflows } = await queues.countQueueUse(this.db, id);
    if (workers + messages + workflows > 0) throw new QueueInUseError(name, workers, messages, workflows);
  }
}

/** foreign_key_violation: from a key, or from one of our triggers in its place. */
function isReferenced(error: unknown): boolean {
  return error instanceof DatabaseError && error.sqlState === '23503';
}

function checkQueueName(name: string): string {
  return check.text('queue name', name, MAX_QUEUE_NAME_BYTES);
}
