import { setMaxListeners } from 'node:events';
import type pg from 'pg';
import { MessageStream } from '../streams/message-stream.js';
import { answeredWithin } from './answered-within.js';
import * as check from './check.js';
import type { Config } from './config.js';
import {
  checkLock,
  checkOptions,
  consumerDefaults,
  type ConsumerOptions,
  type LeaseOptions,
  type MessagesOptions,
} from './consumer-options.js';
import { Db, type Queryable } from './db.js';
import { channelOf } from './doorbell.js';
import { WorkerHasPendingMessagesError } from './errors/index.js';
import { Listener } from './listener.js';
import { Message } from './message.js';
import { QueueSource } from './queue-source.js';
import * as sql from './sql/messages.js';
import type { Id, Queue } from './types.js';
import { type Registration, Worker } from './worker.js';

export {
  consumerDefaults,
  type ConsumerOptions,
  type LeaseOptions,
  type MessagesOptions,
} from './consumer-options.js';

/** How a consumer is made over a pool of the caller's. */
export interface ConsumerCreateOptions extends ConsumerOptions {
  pool: pg.Pool;
  queue: Queue;
  config: Config;
}

/** A delivery, or the id of a message that this consumer holds. */
export type Held = sql.Delivery | Id;

/** Longest wait for the answer to a statement, in ms; when a stream ends, what is under way has less. */
const ANSWER_MS = 30_000;
const LAST_ANSWER_MS = 2_000;

/** Takes messages from one queue, each to exactly one consumer at a time. */
export class Consumer extends Worker {
  readonly #streams = new Set<MessageStream<unknown>>();
  readonly #claimable: Pick<sql.Claim, 'queueId' | 'maxReadCount' | 'foreignLeases'>;
  readonly #lockSeconds: number;
  readonly #pollIntervalMs: number;
  readonly #closing = new AbortController();
  #closed: Promise<void> | undefined;

  private constructor(
    db: Db,
    readonly queue: Queue,
    private readonly listener: Listener,
    /** The Db and the listener are this consumer's alone. */
    private readonly alone: boolean,
    registration: Registration,
    options: ReturnType<typeof checkOptions>,
  ) {
    super(db, registration);
    const { lockSeconds, pollIntervalMs, maxReadCount, foreignLeases } = options;
    this.#claimable = { queueId: queue.id, maxReadCount, foreignLeases };
    this.#lockSeconds = lockSeconds;
    this.#pollIntervalMs = pollIntervalMs;
    setMaxListeners(0, this.#closing.signal); // any number of statements may be under way
    listener.on('listening', this.#onListening).on('deaf', this.#onDeaf);
  }

  /**
   * Registers a consumer over a pool of the caller's, with a connection of its own for notifications.
   * @throws {WorkerAlreadyActiveError} a live worker has that hostname and port
   */
  static async create({ pool, queue, config, ...options }: ConsumerCreateOptions): Promise<Consumer> {
    const db = Db.over(pool, config.schema);
    try {
      return await Consumer.open(db, queue, new Listener(db), true, {
        ...consumerDefaults(config),
        ...options,
      });
    } catch (error) {
      await db.close();
      throw error;
    }
  }

  /** @internal for connect(), which shares one Db and one Listener */
  static async open(
    db: Db,
    queue: Queue,
    listener: Listener,
    alone: boolean,
    options: ConsumerOptions,
  ): Promise<Consumer> {
    const checked = checkOptions(options);
    const registration = await Worker.register(db, queue, options);
    return new Consumer(db, queue, listener, alone, registration, checked);
  }

  /** Claims the next message that is due. @returns nothing when none is @throws as `dequeueMany` */
  async dequeue<T = unknown>(options: LeaseOptions = {}): Promise<Message<T> | undefined> {
    const [message] = await this.dequeueMany<T>(1, options);
    return message;
  }

  /**
   * Claims up to `limit` messages that are due, in the order in which they became so.
   * @param limit from 1 to 100,000
   * @throws {WorkerFencedError} another process has taken this consumer's name over
   * @throws {ClosedError} this consumer was closed or shut down
   * @throws {WorkerSuspendedError} it is suspended or interrupted
   */
  async dequeueMany<T = unknown>(limit: number, options: LeaseOptions = {}): Promise<Message<T>[]> {
    check.integer('limit', limit, { min: 1, max: 100_000 });
    const lockSeconds = checkLock(options.lockSeconds ?? this.#lockSeconds);
    this.assertReady();
    return this.#claim<T>(limit, lockSeconds);
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
  messages<T = unknown>(options: MessagesOptions = {}): MessageStream<Message<T>> {
    this.assertRunning();
    const prefetch = check.integer('prefetch', options.prefetch ?? 100, { min: 1, max: 100_000 });
    const lockSeconds = checkLock(options.lockSeconds ?? this.#lockSeconds);
    const source = new QueueSource<Message<T>>({
      claim: async (limit, hurry) => {
        await this.whenReady(hurry);
        return this.#claim<T>(limit, lockSeconds, hurry);
      },
      nextDueMs: (hurry) =>
        this.#answered('looking for due messages', hurry, (on) => sql.nextDueMs(on, this.#claimable)),
      giveBack: (messages) => this.#giveBack(messages),
      subscribe: (wake) => this.#subscribe(wake),
      pollIntervalMs: this.#pollIntervalMs,
      onClaimError: (error) => this.emit('claimError', error),
    });
    const stream = new MessageStream<Message<T>>(source, prefetch, options.signal);
    this.#streams.add(stream);
    stream.once('close', () => this.#streams.delete(stream));
    return stream;
  }

  /** Done, and kept as archived. @returns whether this consumer held it */
  async archive(held: Held): Promise<boolean> {
    return first(await this.archiveMany([held]));
  }

  /** @returns for each, in input order, whether this consumer held it */
  archiveMany(held: readonly Held[]): Promise<boolean[]> {
    return this.#settle(sql.archiveMessages, held);
  }

  /** Done, and gone. @returns whether this consumer held it */
  async delete(held: Held): Promise<boolean> {
    return first(await this.deleteMany([held]));
  }

  /** @returns for each, in input order, whether this consumer held it */
  deleteMany(held: readonly Held[]): Promise<boolean[]> {
    return this.#settle(sql.deleteMessages, held);
  }

  /** Back into the queue, at once or after a delay. @returns whether this consumer held it */
  async release(held: Held, options: { delaySeconds?: number } = {}): Promise<boolean> {
    return first(await this.releaseMany([held], options));
  }

  /** @returns for each, in input order, whether this consumer held it */
  async releaseMany(
    held: readonly Held[],
    { delaySeconds = 0 }: { delaySeconds?: number } = {},
  ): Promise<boolean[]> {
    const seconds = check.number('delaySeconds', delaySeconds, { min: 0, max: 4_294_967_295 });
    return this.#settle(sql.releaseMessages(seconds), held);
  }

  /**
   * Adds `seconds` to what is left of the lease.
   * @returns whether this consumer held it
   */
  async extendVisibility(held: Held, seconds: number): Promise<boolean> {
    return first(await this.#settle(sql.extendMessages(checkLock(seconds, 'seconds')), [held]));
  }

  /**
   * suspended -> stopped, once every message that it holds is settled. Message streams end with a ClosedError.
   * @throws {WorkerHasPendingMessagesError} it still holds messages, whether their leases have expired or not;
   * whatever its state is
   * @throws {InvalidStateTransitionError | WorkerFencedError}
   */
  override async shutdown(): Promise<void> {
    this.assertNotFenced();
    // Leases have no index of their own: in a long queue this may take its time.
    const held = await this.#answered('counting held messages', this.#closing.signal, (on) =>
      sql.countHeldMessages(on, this.queue.id, this.incarnation),
    );
    if (held === undefined) throw this.fence();
    if (held > 0) throw new WorkerHasPendingMessagesError(this.workerName, held);
    await super.shutdown();
  }

  /**
   * Ends message streams, then suspends and shuts down. Messages in other hands may still be settled; otherwise their
   * leases run out by themselves. Twice is fine.
   */
  override close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    const closing = [...this.#streams].map(
      (stream) => new Promise((resolve) => stream.once('close', resolve)),
    );
    for (const stream of this.#streams) stream.destroy();
    this.leave();
    await Promise.all(closing);
    this.listener.off('listening', this.#onListening).off('deaf', this.#onDeaf);
    if (this.alone) await this.listener.close();
    try {
      await super.close();
    } finally {
      if (this.alone) await this.db.close();
    }
  }

  async #claim<T>(limit: number, lockSeconds: number, hurry = this.#closing.signal): Promise<Message<T>[]> {
    const messages = await this.#answered('claiming messages', hurry, (on) =>
      sql.claimMessages<T>(on, { ...this.#claimable, limit, worker: this.incarnation, lockSeconds }),
    );
    if (!messages) throw this.fence();
    return messages.map((message) => new Message(message, this));
  }

  /** A change of state is a wake too: a stream that waits for messages must hear that there will be none. */
  #subscribe(wake: () => void): () => void {
    const stopWatching = this.watchReadiness(wake);
    const stopListening = this.listener.subscribe(channelOf(this.db.schemaName, this.queue.id), wake);
    return () => {
      stopWatching();
      stopListening();
    };
  }

  /** Where it fails the leases run out by themselves, and the messages count as delivered once. */
  async #giveBack(messages: readonly sql.Delivery[]): Promise<void> {
    await answeredWithin(this.db, 'giving messages back', { withinMs: LAST_ANSWER_MS }, (on) =>
      sql.giveBackMessages(on, this.incarnation, messages),
    ).catch(() => undefined);
  }

  async #settle(statement: sql.Settle, held: readonly Held[]): Promise<boolean[]> {
    if (held.length === 0) return [];
    const deliveries = held.map((one) =>
      typeof one === 'string' ? { id: check.id('message id', one), readCount: null } : one,
    );
    return this.#answered('settling messages', this.#closing.signal, (on) =>
      statement(on, this.incarnation, deliveries),
    );
  }

  #answered<R>(what: string, hurry: AbortSignal, work: (on: Queryable) => Promise<R>): Promise<R> {
    return answeredWithin(this.db, what, { withinMs: ANSWER_MS, hurry, hurriedMs: LAST_ANSWER_MS }, work);
  }

  readonly #onListening = () => this.emit('listening');
  readonly #onDeaf = (reason: Error) => this.emit('deaf', reason);
}

function first(answers: boolean[]): boolean {
  return answers[0] === true;
}
