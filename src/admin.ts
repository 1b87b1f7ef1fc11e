// Long because the operator's whole side is one object: most methods are one call and the words about it.
import type pg from 'pg';
import { ActiveMessages } from './active-messages.js';
import * as known from './admin-options.js';
import { Archive } from './archive.js';
import * as check from './check.js';
import { Config } from './config.js';
import { Db } from './db.js';
import { DeadLetters } from './dead-letters.js';
import { Doorbell } from './doorbell.js';
import {
  DatabaseError,
  QueueAlreadyExistsError,
  QueueInUseError,
  QueueNotFoundError,
  SchemaMismatchError,
  WorkerInUseError,
} from './errors/index.js';
import { inSteps, STEP_ENTRIES } from './in-steps.js';
import type { QueueMetrics, SystemStats, WorkerHealthStats, WorkerStats } from './metrics.js';
import * as migrate from './migrate.js';
import { MAX_SECONDS } from './pages.js';
import * as metrics from './sql/metrics.js';
import * as settings from './sql/queue-settings.js';
import * as queues from './sql/queues.js';
import * as streams from './sql/streams.js';
import { selectMessage } from './sql/stored-messages.js';
import * as care from './sql/worker-care.js';
import { deleteWorker, listWorkers } from './sql/workers.js';
import { sweepQueue } from './sweep-exhausted.js';
import type {
  Id,
  IdLike,
  IngestStream,
  Queue,
  QueueSettings,
  Reclaimed,
  StoredMessage,
  WorkerInfo,
} from './types.js';
import { WorkerHandle } from './worker-handle.js';

/** PostgreSQL indexes the name, and an index entry holds at most about 2,700 bytes. */
const MAX_QUEUE_NAME_BYTES = 2_000;

/** Messages of a queue in use that are counted. */
const MAX_COUNTED = 1_000;

const FOREIGN_KEY_VIOLATION = '23503';

/** The operator's side: the schema, the queues, the workers. Needs no worker of its own. */
export class Admin implements AsyncDisposable {
  private constructor(
    private readonly db: Db,
    private readonly ownsDb: boolean,
    /** What was given to `connect` or `create`, with the defaults. */
    readonly config: Config,
  ) {}

  /** An Admin with a pool of its own; end it with `close()`. Connects at the first call. */
  // eslint-disable-next-line @typescript-eslint/require-await -- asynchronous like pgqrs' Admin::new
  static async create(config: Config): Promise<Admin> {
    const { dsn, schema, maxConnections, connectionTimeoutSeconds } = Config.of(config);
    const db = Db.open(dsn, {
      schema,
      maxConnections,
      connectTimeoutMs: connectionTimeoutSeconds * 1_000,
    });
    return new Admin(db, true, config);
  }

  /** @internal for connect(), which shares one Db */
  static over(db: Db, config: Config): Admin {
    return new Admin(db, false, config);
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
   * pgqrs' clients send no notification: consumers find their messages with the next poll. `notifyForeign` has them
   * woken by a trigger; see InstallOptions.
   * @throws {SchemaMismatchError} the tables are of another pgqrs version, of a newer pg-sluice, or changed by somebody
   * in a way that only a person can mend; nothing is changed then
   * @throws {PermissionDeniedError} the role may not create in the schema, or is not the owner of the tables
   * @throws {TimeoutError} another transaction held a lock on the tables for a minute; call it again
   */
  async install(options: known.InstallOptions = {}): Promise<void> {
    const { notifyForeign } = check.options('admin.install()', options, known.INSTALL);
    if (notifyForeign !== undefined) check.boolean('notifyForeign', notifyForeign);
    await migrate.install(this.db, { notifyForeign });
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
   * @throws {QueueAlreadyExistsError} unless `ifExists` is `'open'`
   */
  async createQueue(name: string, options: known.CreateQueueOptions = {}): Promise<Queue> {
    const { ifExists = 'fail' } = check.options('admin.createQueue()', options, known.CREATE_QUEUE);
    // To open one without a name, which pgqrs allows, is one thing; to make one is what an unset variable does.
    check.text('queue name', checkQueueName(name));
    check.oneOf('ifExists', ifExists, ['fail', 'open']);
    const queue = await queues.insertQueue(this.db, name);
    if (queue) return queue;
    if (ifExists === 'open') return this.getQueue(name);
    throw new QueueAlreadyExistsError(name);
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
   * Deletes an empty queue. What keeps it is found by indexes, but for archived messages: those are looked for in the
   * whole table, once, by the delete itself.
   * @throws {QueueNotFoundError}
   * @throws {QueueInUseError} workers, messages (archived ones too) or pgqrs workflows still refer to it
   */
  async deleteQueue(name: string): Promise<void> {
    const { id } = await this.getQueue(name);
    await this.#refuseInUse(name, id);
    try {
      if (!(await this.db.transaction((session) => queues.deleteQueue(session, id))))
        throw new QueueNotFoundError(name);
    } catch (error) {
      if (!isReferenced(error)) throw error;
      await this.#refuseInUse(name, id); // where something came meanwhile
      throw new QueueInUseError(name, 0, 1, 0); // an archived message
    }
  }

  /**
   * Deletes all messages of a queue, leased and archived ones too, but no worker (pgqrs deletes those as well). Walks
   * over all messages in statements of 10,000, each of which is done when it is done: interrupted, it goes on when it is
   * called again. What was committed before the call goes; what producers add meanwhile may stay or go.
   * @returns how many messages went
   * @throws {QueueNotFoundError}
   * @throws {DatabaseError} 23503: runs of a pgqrs workflow refer to some of them, which stay; all others are gone
   */
  async purgeQueue(name: string): Promise<number> {
    const { id } = await this.getQueue(name);
    let kept = 0;
    const gone = await inSteps(this.db, 'purging the queue', async (on, walk) => {
      const step = await queues.purgeQueue(on, id, walk, STEP_ENTRIES);
      kept += step.kept;
      return step;
    });
    if (kept === 0) return gone;
    throw new DatabaseError(
      `${gone} message(s) are gone; ${kept} stay, since runs of a pgqrs workflow refer to them`,
      FOREIGN_KEY_VIOLATION,
    );
  }

  /**
   * Keeps consumers of ours from claiming anything of the queue, until `resumeQueue`. What they hold they may finish, and
   * producers go on. (pgqrs' own clients know nothing of it.) Twice is fine.
   * @throws {QueueNotFoundError}
   */
  async pauseQueue(name: string): Promise<void> {
    if (!(await settings.pauseQueue(this.db, checkQueueName(name)))) throw new QueueNotFoundError(name);
  }

  /** Ends a pause, and wakes the consumers. Twice is fine. @throws {QueueNotFoundError} */
  async resumeQueue(name: string): Promise<void> {
    const id = await settings.resumeQueue(this.db, checkQueueName(name));
    if (!id) throw new QueueNotFoundError(name);
    await this.#ring([id]);
  }

  /**
   * Sets how long the queue keeps messages that were done, and dead letters. Consumers, of whatever queue, delete what is
   * older now and then.
   * @throws {QueueNotFoundError}
   * @example
   * await admin.setRetention('emails', { archiveSeconds: 7 * 86_400, deadLetterSeconds: null });
   */
  async setRetention(name: string, options: known.RetentionOptions): Promise<void> {
    const given = check.options('admin.setRetention()', options, known.RETENTION);
    const retention = {
      archiveSeconds: checkRetention('archiveSeconds', given.archiveSeconds),
      deadLetterSeconds: checkRetention('deadLetterSeconds', given.deadLetterSeconds),
    };
    if (!(await settings.setRetention(this.db, checkQueueName(name), retention)))
      throw new QueueNotFoundError(name);
  }

  /** Whether the queue is paused, and how long it keeps what. @throws {QueueNotFoundError} */
  async queueSettings(name: string): Promise<QueueSettings> {
    const found = await settings.selectSettings(this.db, checkQueueName(name));
    if (!found) throw new QueueNotFoundError(name);
    return found;
  }

  /** A queue's messages that are not archived. Asks the server nothing yet. */
  messages(queueName: string): ActiveMessages {
    const name = checkQueueName(queueName);
    return new ActiveMessages(this.db, () => this.getQueue(name), this.config.maxReadCount);
  }

  /** A queue's dead letters. Asks the server nothing yet. */
  deadLetters(queueName: string): DeadLetters {
    const name = checkQueueName(queueName);
    return new DeadLetters(this.db, () => this.getQueue(name));
  }

  /** A queue's archive: messages that were done. Asks the server nothing yet. */
  archive(queueName: string): Archive {
    const name = checkQueueName(queueName);
    return new Archive(this.db, () => this.getQueue(name));
  }

  /**
   * Makes dead letters of messages that were delivered as often as allowed (pgqrs' `dlq`), unless somebody may still be
   * at the last delivery. Consumers do it for their queues now and then. Looks at every unarchived message, in
   * statements of 10,000.
   * @returns the ids of those that it has moved
   * @throws {QueueNotFoundError}
   */
  async sweepExhausted(options: known.SweepOptions = {}): Promise<Id[]> {
    const given = check.options('admin.sweepExhausted()', options, known.SWEEP);
    const { queue, foreignLeases = 'stale' } = given;
    const maxReadCount = this.#maxReadCount(given);
    check.oneOf('foreignLeases', foreignLeases, ['never', 'stale', 'expired']);
    const swept: Id[][] = [];
    for (const { id } of queue === undefined ? await this.listQueues() : [await this.getQueue(queue)])
      swept.push(await sweepQueue(this.db, { queueId: id, maxReadCount, foreignLeases }));
    return swept.flat();
  }

  /** All streams into queues that are under way or can be resumed; those that moved last come first. */
  async listStreams(): Promise<IngestStream[]> {
    return streams.listStreams(this.db);
  }

  /** One stream by its name; undefined where there is none. */
  async getStream(name: string): Promise<IngestStream | undefined> {
    const [stream] = await streams.listStreams(this.db, check.text('stream name', name));
    return stream;
  }

  /**
   * Forgets how far a stream has come: started again it begins at the beginning of its source. A run that is under way
   * ends with a StreamNotFoundError.
   * @returns whether there was one
   */
  async deleteStream(name: string): Promise<boolean> {
    return streams.deleteStream(this.db, check.text('stream name', name));
  }

  /**
   * Deletes a worker's registration. A live process notices, and stops working as that worker.
   * @returns whether there was one
   * @throws {WorkerInUseError} messages, archived ones too, or workflow runs still refer to it
   */
  async deleteWorker(workerId: IdLike): Promise<boolean> {
    const id = check.id('workerId', workerId);
    try {
      return await this.db.transaction((session) => deleteWorker(session, id));
    } catch (error) {
      throw isReferenced(error) ? new WorkerInUseError(id) : error;
    }
  }

  /**
   * All workers, or those of one queue, or only stale ones; the newest registration first.
   * @throws {QueueNotFoundError}
   */
  async listWorkers(options: known.ListWorkersOptions = {}): Promise<WorkerInfo[]> {
    const { queue, staleForSeconds } = check.options('admin.listWorkers()', options, known.LIST_WORKERS);
    if (staleForSeconds !== undefined) checkSeconds('staleForSeconds', staleForSeconds);
    return listWorkers(this.db, await this.#queueId(queue), staleForSeconds);
  }

  /**
   * Stops workers that have gone silent, whatever client they belong to, and releases all that they hold, in whatever
   * queue: in one transaction, which leaves out whoever sends a heartbeat in time. A process that was only slow learns
   * with its next heartbeat that it is stopped, and what it does to its messages does nothing any more. Reads the whole
   * messages table if there is such a worker.
   * @throws {QueueNotFoundError}
   */
  async reclaim(options: known.ReclaimOptions = {}): Promise<Reclaimed> {
    const { queue, olderThanSeconds = 60 } = check.options('admin.reclaim()', options, known.RECLAIM);
    checkSeconds('olderThanSeconds', olderThanSeconds);
    const queueId = await this.#queueId(queue);
    const { queues: released, ...reclaimed } = await this.db.transaction((session) =>
      care.reclaim(session, queueId, olderThanSeconds),
    );
    await this.#ring(released);
    return reclaimed;
  }

  /**
   * Releases all that a worker holds, in whatever queue; its status stays. Reads the whole messages table.
   * @returns how many messages were released
   */
  async releaseWorkerMessages(workerId: IdLike): Promise<number> {
    const released = await care.releaseLeases(this.db, [check.id('workerId', workerId)]);
    await this.#ring(released.map(({ queueId }) => queueId));
    return released.reduce((sum, { count }) => sum + count, 0);
  }

  /** What a worker holds, in whatever queue, expired leases too; what is due first comes first. Reads the whole messages table. */
  async workerMessages<T = unknown>(
    workerId: IdLike,
    options: known.WorkerMessagesOptions = {},
  ): Promise<StoredMessage<T>[]> {
    const id = check.id('workerId', workerId);
    const { limit = 100 } = check.options('admin.workerMessages()', options, known.WORKER_MESSAGES);
    return care.listLeases<T>(this.db, id, check.integer('limit', limit, { min: 1, max: 10_000 }));
  }

  /**
   * Deletes registrations of workers that have been stopped and silent for long, and to which no message, archived ones
   * included, and no workflow run refers. Reads the whole messages table if there is one to delete.
   * @returns how many were deleted
   * @throws {QueueNotFoundError}
   */
  async purgeWorkers(options: known.PurgeWorkersOptions = {}): Promise<number> {
    const given = check.options('admin.purgeWorkers()', options, known.PURGE_WORKERS);
    const { queue, olderThanSeconds = 604_800 } = given;
    checkSeconds('olderThanSeconds', olderThanSeconds);
    const queueId = await this.#queueId(queue);
    return this.db.transaction((session) => care.purgeWorkers(session, queueId, olderThanSeconds));
  }

  /**
   * A handle on any worker, in whatever process it lives. Asks the server nothing yet.
   * @example
   * await admin.worker(id).suspend(); // its process sees it with its next heartbeat
   */
  worker(workerId: IdLike): WorkerHandle {
    return new WorkerHandle(this.db, workerId);
  }

  /** Looks at a message of whatever queue, archived or not; takes no lease. @returns nothing when it does not exist */
  async getMessage<T = unknown>(messageId: IdLike): Promise<StoredMessage<T> | undefined> {
    return selectMessage<T>(this.db, check.id('messageId', messageId));
  }

  /**
   * Counts a queue's messages by state, exactly, in a single snapshot. Reads the whole messages table: once in some
   * seconds rather than once per message.
   * @throws {QueueNotFoundError}
   */
  async queueMetrics(name: string, options: known.MetricsOptions = {}): Promise<QueueMetrics> {
    const found = await metrics.selectQueueMetrics(
      this.db,
      checkQueueName(name),
      this.#maxReadCount(check.options('admin.queueMetrics()', options, known.METRICS)),
    );
    if (!found) throw new QueueNotFoundError(name);
    return found;
  }

  /** As `queueMetrics`, of every queue, empty ones too, in the order of their names. One scan serves them all. */
  async allQueuesMetrics(options: known.MetricsOptions = {}): Promise<QueueMetrics[]> {
    const given = check.options('admin.allQueuesMetrics()', options, known.METRICS);
    return metrics.listQueueMetrics(this.db, this.#maxReadCount(given));
  }

  /** Counts queues, workers by status and messages by state, exactly, in a single snapshot. */
  async systemStats(options: known.MetricsOptions = {}): Promise<SystemStats> {
    const given = check.options('admin.systemStats()', options, known.METRICS);
    return metrics.selectSystemStats(this.db, this.#maxReadCount(given));
  }

  /**
   * Counts workers by status, and those that should be at work but have gone silent, by the server's clock.
   * @returns one row for all workers; with `groupByQueue` one for each queue that has workers, by name, and at the end
   * one for the workers of no queue if there are any
   */
  async workerHealthStats(options: known.WorkerHealthOptions = {}): Promise<WorkerHealthStats[]> {
    const given = check.options('admin.workerHealthStats()', options, known.WORKER_HEALTH);
    const { timeoutSeconds = 60, groupByQueue = false } = given;
    check.number('timeoutSeconds', timeoutSeconds, { min: 0, max: 4_294_967_295 });
    return metrics.selectWorkerHealth(this.db, timeoutSeconds, check.boolean('groupByQueue', groupByQueue));
  }

  /**
   * A queue's workers: how many in each status, how loaded, how old. Reads the whole messages table.
   * @throws {QueueNotFoundError}
   */
  async workerStats(queueName: string): Promise<WorkerStats> {
    const found = await metrics.selectWorkerStats(this.db, checkQueueName(queueName));
    if (!found) throw new QueueNotFoundError(queueName);
    return found;
  }

  /** Ends the pool, if it is the Admin's own. Twice is fine. */
  async close(): Promise<void> {
    if (this.ownsDb) await this.db.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #queueId(name: string | undefined): Promise<Id | null> {
    return name === undefined ? null : (await this.getQueue(name)).id;
  }

  /** Tells the consumers of these queues that there may be something for them. */
  async #ring(queueIds: readonly Id[]): Promise<void> {
    const doorbells = queueIds.map((id) => new Doorbell(this.db, id));
    for (const doorbell of doorbells) doorbell.ring();
    await Promise.all(doorbells.map((doorbell) => doorbell.quiet()));
  }

  #maxReadCount({ maxReadCount = this.config.maxReadCount }: known.MetricsOptions): number {
    return check.integer('maxReadCount', maxReadCount, { min: 1, max: 2_147_483_647 });
  }

  async #refuseInUse(name: string, id: Id): Promise<void> {
    const { workers, messages, workflows } = await queues.countQueueUse(this.db, id, MAX_COUNTED);
    if (workers + messages + workflows > 0) throw new QueueInUseError(name, workers, messages, workflows);
  }
}

/** From a key, or from one of our triggers in its place. */
function isReferenced(error: unknown): boolean {
  return error instanceof DatabaseError && error.sqlState === FOREIGN_KEY_VIOLATION;
}

function checkSeconds(field: string, seconds: number): number {
  return check.number(field, seconds, { min: 0, max: MAX_SECONDS });
}

function checkRetention(field: string, seconds: number | null | undefined): number | null | undefined {
  return seconds === undefined || seconds === null ? seconds : checkSeconds(field, seconds);
}

function checkQueueName(name: string): string {
  return name === '' ? name : check.text('queue name', name, MAX_QUEUE_NAME_BYTES);
}
