// Long: a third of it is the documentation of the public methods.
import { setMaxListeners } from 'node:events';
import type { Readable } from 'node:stream';
import type { Room } from '../streams/claim-loop.js';
import * as check from './check.js';
import { Deliveries } from './consume/deliveries.js';
import type { HoldingParts } from './consume/holding.js';
import { messageMemory } from './consume/memory.js';
import { batch, single } from './consume/perform.js';
import { QueueSource } from './consume/queue-source.js';
import { type Messages, reading } from './consume/reading.js';
import { Runs } from './consume/runs.js';
import { turnsOf } from './consume/turns.js';
import {
  type BatchHandler,
  checkRunOptions,
  type Handler,
  RUN,
  RUN_BATCH,
  type RunBatchOptions,
  type RunOptions,
  type RunSummary,
  type TransactionalContext,
} from './consume/run-options.js';
import { Config } from './config.js';
import {
  checkLock,
  checkMessagesOptions,
  checkOptions,
  CONSUMER_CREATE,
  type ConsumerCreateOptions,
  type ConsumerOptions,
  consumerSettings,
  LEASE,
  type LeaseOptions,
  type MessagesOptions,
} from './consumer-options.js';
import type { Db } from './db.js';
import { settledWithin } from './deferred.js';
import { Doorbell } from './doorbell.js';
import { WorkerHasPendingMessagesError } from './errors/index.js';
import { Housekeeping } from './housekeeping.js';
import type { Listener } from './listener.js';
import type { Message, ReleaseOptions } from './message.js';
import { overPool } from './over-pool.js';
import type { Delivery } from './sql/settle.js';
import type { IdLike, Queue } from './types.js';
import { type Registration, Worker } from './worker.js';

/** A delivery, or the id of a message that this consumer holds. */
export type Held = Delivery | IdLike;

/** For the last acknowledgements, when the server does not answer. */
const LAST_WORDS_MS = 5_000;

/** Takes messages from one queue, each to exactly one consumer at a time. */
export class Consumer extends Worker {
  readonly #streams = new Set<Readable>();
  readonly #runs: Runs;
  readonly #holding: HoldingParts;
  readonly #housekeeping: Housekeeping;
  readonly #deliveries: Deliveries;
  readonly #doorbell: Doorbell;
  /** Of message streams and runs. */
  readonly #wakes = new Set<() => void>();
  readonly #lockSeconds: number;
  readonly #batchSize: number;
  readonly #pollIntervalMs: number;
  readonly #closing = new AbortController();
  #closed: Promise<void> | undefined;

  private constructor(
    db: Db,
    readonly queue: Queue,
    private readonly listener: Listener,
    /** Called when it is closed. */
    private readonly leaveShared: () => Promise<void>,
    registration: Registration,
    options: ReturnType<typeof checkOptions>,
  ) {
    super(db, registration);
    const { lockSeconds, pollIntervalMs, maxReadCount, foreignLeases, retryPolicy, parsePayload } = options;
    const claimable = { queueId: queue.id, maxReadCount, foreignLeases };
    this.#deliveries = new Deliveries({
      db,
      worker: this.incarnation,
      claimable,
      retryPolicy,
      parsePayload,
      onUnreadable: (failure) => queueMicrotask(() => this.emit('failed', failure)),
      fenced: () => this.fence(),
      onReturned: () => this.#returned(),
      hurry: this.#closing.signal,
    });
    this.#holding = {
      deliveries: this.#deliveries,
      sourceOf: (claim) => this.#sourceOf(claim),
      onRenewError: (error) => queueMicrotask(() => this.emit('claimError', error)),
    };
    this.#runs = new Runs({
      db,
      ...this.#holding,
      // Not in the middle of whatever found it out: a listener that throws must not break that.
      onFailed: (failure) => queueMicrotask(() => this.emit('failed', failure)),
      onLost: (message, error) => queueMicrotask(() => this.emit('leaseLost', message, error)),
    });
    this.#housekeeping = new Housekeeping({
      db,
      ...claimable,
      intervalSeconds: options.housekeepingIntervalSeconds,
      onError: (error) => this.emit('housekeepingError', error),
    });
    this.#doorbell = new Doorbell(db, queue.id);
    this.#lockSeconds = lockSeconds;
    this.#batchSize = options.batchSize;
    this.#pollIntervalMs = pollIntervalMs;
    this.once('fenced', () => void this.#housekeeping.stop());
    setMaxListeners(0, this.#closing.signal); // any number of statements may be under way
    listener.on('listening', this.#onListening).on('deaf', this.#onDeaf);
  }

  /**
   * Registers a consumer over a pool of the caller's, with one more connection for notifications,
   * which all consumers over that pool share.
   * @throws {WorkerAlreadyActiveError} a live worker has that hostname and port
   */
  static async create(options: ConsumerCreateOptions): Promise<Consumer> {
    const call = 'Consumer.create()';
    const { pool, queue, config, ...given } = check.options(call, options, CONSUMER_CREATE);
    const settings = consumerSettings(call, Config.of(config), given);
    check.queue('queue', queue);
    const { db, listener, leave } = overPool(check.pool('pool', pool), config.schema);
    try {
      return await Consumer.open(db, queue, listener, settings, leave);
    } catch (error) {
      await leave();
      throw error;
    }
  }

  /** @internal for connect(), which shares one Db and one Listener */
  static async open(
    db: Db,
    queue: Queue,
    listener: Listener,
    options: ConsumerOptions,
    leaveShared = () => Promise.resolve(),
  ): Promise<Consumer> {
    const checked = checkOptions(options);
    const registration = await Worker.register(db, queue, options);
    return new Consumer(db, queue, listener, leaveShared, registration, checked);
  }

  /** Claims the next message that is due. @returns nothing when none is @throws as `dequeueMany` */
  async dequeue<T = unknown>(options: LeaseOptions = {}): Promise<Message<T> | undefined> {
    const [message] = await this.#dequeue<T>('consumer.dequeue()', 1, options);
    return message;
  }

  /**
   * Claims up to `limit` messages that are due, in the order in which they became so; fewer where they would be more
   * bytes together than `messageMemory.limitBytes`.
   * @param limit from 1 to 100,000
   * @throws {WorkerFencedError} another process has taken this consumer's name over
   * @throws {ClosedError} this consumer was closed or shut down
   * @throws {WorkerSuspendedError} it is suspended or interrupted
   */
  async dequeueMany<T = unknown>(limit: number, options: LeaseOptions = {}): Promise<Message<T>[]> {
    return this.#dequeue('consumer.dequeueMany()', limit, options);
  }

  async #dequeue<T>(call: string, limit: number, options: LeaseOptions): Promise<Message<T>[]> {
    check.integer('limit', limit, { min: 1, max: 100_000 });
    const { lockSeconds = this.#lockSeconds } = check.options(call, options, LEASE);
    checkLock(lockSeconds);
    this.assertReady();
    const room = { limit, maxBytes: messageMemory.limitBytes };
    const messages = await this.#deliveries.claim<T>({ room, lockSeconds, everything: true });
    return this.#deliveries.handOut<T>(messages);
  }

  /**
   * Messages as a Readable and async iterable, as soon as they are due. It goes on until it is destroyed (leaving a
   * `for await` does that); messages that were claimed but not read go back at once, and don't count as delivered.
   * While this consumer is suspended it claims nothing more, and goes on by itself after `resume()`.
   *
   * @example
   * for await (const message of consumer.messages()) { …; await message.archive(); }
   *
   * @throws {WorkerFencedError} also later, through the stream
   * @throws {ClosedError} this consumer was closed or shut down
   */
  messages<T = unknown>(options: MessagesOptions = {}): Messages<T> {
    this.assertRunning();
    const stream = reading<T>(this.#holding, checkMessagesOptions(options, this.#lockSeconds));
    this.#streams.add(stream);
    stream.once('close', () => this.#streams.delete(stream));
    return stream;
  }

  /**
   * Calls `handler` for each message, several at once, until the signal aborts or the consumer is closed. When it
   * returns the message is archived; when it throws the message is tried again later, or after `maxReadCount`
   * deliveries becomes a dead letter; a `DeadLetter` or a `RetryAfter` says so itself. Leases are renewed for as long
   * as handlers run. While the consumer or the queue is suspended nothing is claimed.
   *
   * @returns what was done, when everything is settled
   * @throws {WorkerFencedError} another process has taken this consumer's name over
   * @throws {ClosedError} it was shut down elsewhere
   *
   * @example
   * await consumer.run(async ({ payload }) => send(payload), { concurrency: 16, signal });
   *
   * @example
   * await consumer.run(async ({ payload }, { client }) => {
   *   await client.query('update accounts …'); // commits together with the message
   * }, { transactional: true });
   */
  run<T = unknown>(
    handler: Handler<T, TransactionalContext>,
    options: RunOptions & { transactional: true },
  ): Promise<RunSummary>;
  run<T = unknown>(handler: Handler<T>, options?: RunOptions): Promise<RunSummary>;
  async run<T = unknown>(
    handler: Handler<T, TransactionalContext>,
    options: RunOptions = {},
  ): Promise<RunSummary> {
    check.callback('handler', handler);
    const checked = checkRunOptions(check.options('consumer.run()', options, RUN), {
      concurrency: 10,
      batchSize: 1,
      lockSeconds: this.#lockSeconds,
    });
    this.assertRunning();
    return this.#runs.start(single(handler), checked);
  }

  /**
   * As `run`, with a handler for up to `batchSize` messages at a time, which may fail for some of them only.
   *
   * @example
   * await consumer.runBatch(async (messages) => {
   *   const { errors } = await bulkIndex(messages.map(({ payload }) => payload));
   *   return errors; // an Error in the place of each message that failed
   * }, { batchSize: 500 });
   */
  runBatch<T = unknown>(
    handler: BatchHandler<T, TransactionalContext>,
    options: RunBatchOptions & { transactional: true },
  ): Promise<RunSummary>;
  runBatch<T = unknown>(handler: BatchHandler<T>, options?: RunBatchOptions): Promise<RunSummary>;
  async runBatch<T = unknown>(
    handler: BatchHandler<T, TransactionalContext>,
    options: RunBatchOptions = {},
  ): Promise<RunSummary> {
    check.callback('handler', handler);
    const checked = checkRunOptions(check.options('consumer.runBatch()', options, RUN_BATCH), {
      concurrency: 1,
      batchSize: this.#batchSize,
      lockSeconds: this.#lockSeconds,
    });
    this.assertRunning();
    return this.#runs.start(batch(handler), checked);
  }

  /** Done, and kept as archived. Calls at the same time share a statement. @returns whether this consumer held it */
  async archive(held: Held): Promise<boolean> {
    return this.#deliveries.archive(delivery(held));
  }

  /** @returns for each, in input order, whether this consumer held it */
  async archiveMany(held: readonly Held[]): Promise<boolean[]> {
    const checked = deliveries(held);
    return checked.length === 0 ? [] : this.#deliveries.doneMany('archive', checked);
  }

  /** Done, and gone. Calls at the same time share a statement. @returns whether this consumer held it */
  async delete(held: Held): Promise<boolean> {
    return this.#deliveries.delete(delivery(held));
  }

  /** @returns for each, in input order, whether this consumer held it */
  async deleteMany(held: readonly Held[]): Promise<boolean[]> {
    const checked = deliveries(held);
    return checked.length === 0 ? [] : this.#deliveries.doneMany('delete', checked);
  }

  /** Back into the queue, at once or after a delay. @returns whether this consumer held it */
  async release(held: Held, options: Omit<ReleaseOptions, 'client'> = {}): Promise<boolean> {
    const { delaySeconds = 0 } = check.options('consumer.release()', options, DELAY);
    check.seconds('delaySeconds', delaySeconds);
    return this.#deliveries.release({ ...delivery(held), delaySeconds });
  }

  /** @returns for each, in input order, whether this consumer held it */
  async releaseMany(held: readonly Held[], options: Omit<ReleaseOptions, 'client'> = {}): Promise<boolean[]> {
    const { delaySeconds = 0 } = check.options('consumer.releaseMany()', options, DELAY);
    check.seconds('delaySeconds', delaySeconds);
    const checked = deliveries(held);
    if (checked.length === 0) return [];
    return this.#deliveries.releaseMany(checked.map((one) => ({ ...one, delaySeconds })));
  }

  /**
   * Adds `seconds` to what is left of the lease.
   * @returns whether this consumer held it
   */
  async extendVisibility(held: Held, seconds: number): Promise<boolean> {
    return this.#deliveries.extendVisibility(delivery(held), checkLock(seconds, 'seconds'));
  }

  /**
   * suspended -> stopped, once every message that it holds is settled. Message streams end with a ClosedError.
   * @throws {WorkerHasPendingMessagesError} it still holds messages, whether their leases have expired or not;
   * whatever its state is
   * @throws {InvalidStateTransitionError | WorkerFencedError}
   */
  override async shutdown(): Promise<void> {
    this.assertNotFenced();
    const held = await this.#deliveries.countHeld();
    if (held > 0) throw new WorkerHasPendingMessagesError(this.workerName, held);
    await super.shutdown();
    await this.#housekeeping.stop();
  }

  /**
   * Ends runs in order (no more claims, and handlers have their `shutdownSeconds`) and message streams, then suspends
   * and shuts down. Messages in other hands may still be settled; otherwise their leases run out by themselves. Twice is
   * fine.
   */
  override close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const ended = this.#runs.stop();
    const closing = [...this.#streams].map(
      (stream) => new Promise((resolve) => stream.once('close', resolve)),
    );
    for (const stream of this.#streams) stream.destroy();
    this.leave();
    await ended;
    await settledWithin(LAST_WORDS_MS, this.#deliveries.idle());
    await this.#housekeeping.stop();
    this.#closing.abort();
    await Promise.all(closing);
    await this.#doorbell.quiet();
    this.listener.off('listening', this.#onListening).off('deaf', this.#onDeaf);
    try {
      await super.close();
    } finally {
      await this.leaveShared();
    }
  }

  #sourceOf<M>(claim: (room: Room, hurry: AbortSignal) => Promise<M[]>): QueueSource<M> {
    return new QueueSource<M>({
      claim: async (room, hurry) => {
        await this.whenReady(hurry);
        return claim(room, hurry);
      },
      nextDueMs: (hurry) => this.#deliveries.nextDueMs(hurry),
      nextLookMs: () => this.#deliveries.nextLookMs,
      subscribe: (wake) => this.#subscribe(wake),
      turns: turnsOf(this.listener, this.#doorbell.channel),
      pollIntervalMs: this.#pollIntervalMs,
      onClaimError: (error) => queueMicrotask(() => this.emit('claimError', error)),
    });
  }

  /** A change of state is a wake too: a stream that waits for messages must hear that there will be none. */
  #subscribe(wake: () => void): () => void {
    const stopWatching = this.watchReadiness(wake);
    this.#wakes.add(wake);
    return () => {
      stopWatching();
      this.#wakes.delete(wake);
    };
  }

  /** Messages may be due sooner than what consumers, here and elsewhere, wait for. */
  #returned(): void {
    for (const wake of this.#wakes) wake();
    this.#doorbell.ring();
  }

  readonly #onListening = () => {
    this.#deliveries.startOver();
    queueMicrotask(() => this.emit('listening'));
  };
  readonly #onDeaf = (reason: Error) => queueMicrotask(() => this.emit('deaf', reason));
}

const DELAY: check.Names<Omit<ReleaseOptions, 'client'>> = { delaySeconds: true };

/** Checked here: a bad id would fail the whole statement, and those who share it. */
function delivery(held: Held, field = 'message id'): Delivery {
  if (!check.isObject(held)) return { id: check.id(field, held), readCount: null };
  return check.read(field, 'a message or its id', () => {
    const { id, readCount } = held as Delivery;
    if (readCount !== null) check.integer(`${field}.readCount`, readCount, { min: 0, max: 2_147_483_647 });
    return { id: check.id(`${field}.id`, id), readCount };
  });
}

function deliveries(held: readonly Held[]): Delivery[] {
  return check.list('messages', held).map((one, index) => delivery(one as Held, `messages[${index}]`));
}
