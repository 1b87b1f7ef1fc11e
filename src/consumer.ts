import type pg from 'pg';
import { MessageStream } from '../streams/message-stream.js';
import { backoffMs, sleep } from './backoff.js';
import * as check from './check.js';
import type { Config } from './config.js';
import { Db } from './db.js';
import { type Deferred, deferred } from './deferred.js';
import { channelOf } from './doorbell.js';
import { SluiceError } from './errors.js';
import { Listener } from './listener.js';
import { Message } from './message.js';
import * as sql from './sql/messages.js';
import type { ForeignLeases, Id, Queue } from './types.js';
import { type Registration, Worker, type WorkerOptions } from './worker.js';

export interface ConsumerOptions extends WorkerOptions {
  /** Length of a lease, in seconds: a message that is not settled by then comes back. @default 30 */
  lockSeconds?: number;
  /** Deliveries after which a message is not delivered any more. @default 5 */
  maxReadCount?: number;
  /** Longest time between two looks at an empty queue, in ms; notifications and due times shorten it. @default 1000 */
  pollIntervalMs?: number;
  /**
   * Expired leases of pg-sluice consumers come back by themselves. Those of pgqrs' own clients, which never renew:
   * `never`; `stale`, when lease and heartbeat are both older than 60 seconds; `expired`, like ours. @default 'stale'
   */
  foreignLeases?: ForeignLeases;
}

/** How a consumer is made over a pool of the caller's. */
export interface ConsumerCreateOptions extends ConsumerOptions {
  pool: pg.Pool;
  queue: Queue;
  config: Config;
}

export interface LeaseOptions {
  /** Length of the lease, in seconds. @default the consumer's */
  lockSeconds?: number;
}

export interface MessagesOptions extends LeaseOptions {
  /**
   * Messages claimed ahead of the reader. The lease runs while they wait: it must outlast the time in which that
   * many are handled. @default 100
   */
  prefetch?: number;
  /** Ends the stream at once when it aborts. */
  signal?: AbortSignal;
}

/** A delivery, or the id of a message that this consumer holds. */
export type Held = sql.Delivery | Id;

const CLAIM_RETRY = { baseMs: 50, maxMs: 5_000 };
/** When messages are due but others hold them locked, or come faster than we see them. */
const DUE_BUT_EMPTY = { baseMs: 2, maxMs: 250 };

/** Takes messages from one queue, each to exactly one consumer at a time. */
export class Consumer extends Worker {
  readonly #streams = new Set<MessageStream<unknown>>();
  readonly #lockSeconds: number;
  readonly #maxReadCount: number;
  readonly #pollIntervalMs: number;
  readonly #foreignLeases: ForeignLeases;

  private constructor(
    db: Db,
    readonly queue: Queue,
    private readonly listener: Listener,
    private readonly ownsListener: boolean,
    registration: Registration,
    options: ReturnType<typeof checkOptions>,
  ) {
    super(db, registration);
    this.#lockSeconds = options.lockSeconds;
    this.#maxReadCount = options.maxReadCount;
    this.#pollIntervalMs = options.pollIntervalMs;
    this.#foreignLeases = options.foreignLeases;
    listener.on('listening', this.#onListening).on('deaf', this.#onDeaf);
  }

  /**
   * Registers a consumer over a pool of the caller's, with a connection of its own for notifications.
   * @throws {WorkerAlreadyActiveError} a live worker has that hostname and port
   */
  static async create({ pool, queue, config, ...options }: ConsumerCreateOptions): Promise<Consumer> {
    const db = Db.over(pool, config.schema);
    return Consumer.open(db, queue, new Listener(db), true, { ...consumerDefaults(config), ...options });
  }

  /** @internal for connect(), which shares one Db and one Listener */
  static async open(
    db: Db,
    queue: Queue,
    listener: Listener,
    ownsListener: boolean,
    options: ConsumerOptions,
  ): Promise<Consumer> {
    const checked = checkOptions(options);
    const registration = await Worker.register(db, queue.id, options);
    return new Consumer(db, queue, listener, ownsListener, registration, checked);
  }

  /** Claims the next message that is due. @returns nothing when none is */
  async dequeue<T = unknown>(options: LeaseOptions = {}): Promise<Message<T> | undefined> {
    const [message] = await this.dequeueMany<T>(1, options);
    return message;
  }

  /**
   * Claims up to `limit` messages that are due, in the order in which they became so.
   * @param limit from 1 to 100,000
   * @throws {WorkerFencedError}
   */
  async dequeueMany<T = unknown>(limit: number, options: LeaseOptions = {}): Promise<Message<T>[]> {
    check.integer('limit', limit, { min: 1, max: 100_000 });
    return this.#claim<T>(limit, checkLock(options.lockSeconds ?? this.#lockSeconds));
  }

  /**
   * Messages as a Readable and async iterable, as soon as they are due. It goes on until it is destroyed (leaving a
   * `for await` does that); messages that were claimed but not read go back at once.
   *
   * @example
   * for await (const message of consumer.messages()) { …; await message.archive(); }
   */
  messages<T = unknown>(options: MessagesOptions = {}): MessageStream<Message<T>> {
    this.assertNotFenced();
    const prefetch = check.integer('prefetch', options.prefetch ?? 100, { min: 1, max: 100_000 });
    const lockSeconds = checkLock(options.lockSeconds ?? this.#lockSeconds);
    const bell = this.#bell();
    const stream = new MessageStream<Message<T>>(
      {
        claim: (limit, signal) => {
          bell.reset();
          return this.#claimUntilAnswered<T>(limit, lockSeconds, signal);
        },
        wait: async (empty, signal) => {
          await bell.rung(await this.#pauseMs(empty), signal);
        },
        giveBack: async (messages) => {
          await sql.giveBackMessages(this.db, this.incarnation, messages);
        },
        close: () => {
          bell.close();
          this.#streams.delete(stream);
        },
      },
      prefetch,
      options.signal,
    );
    this.#streams.add(stream);
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
  releaseMany(
    held: readonly Held[],
    { delaySeconds = 0 }: { delaySeconds?: number } = {},
  ): Promise<boolean[]> {
    const seconds = check.number('delaySeconds', delaySeconds, { min: 0, max: 4_294_967_295 });
    return this.#settle(
      (on, worker, deliveries) => sql.releaseMessages(on, worker, deliveries, seconds),
      held,
    );
  }

  /**
   * Adds `seconds` to what is left of the lease.
   * @returns whether this consumer held it
   */
  async extendVisibility(held: Held, seconds: number): Promise<boolean> {
    checkLock(seconds, 'seconds');
    return first(
      await this.#settle(
        (on, worker, deliveries) => sql.extendMessages(on, worker, deliveries, seconds),
        [held],
      ),
    );
  }

  /** Ends message streams, then suspends and shuts down. Leases in other hands run out by themselves. Twice is fine. */
  override async close(): Promise<void> {
    const closed = [...this.#streams].map(
      (stream) => new Promise((resolve) => stream.once('close', resolve)),
    );
    for (const stream of this.#streams) stream.destroy();
    await Promise.all(closed);
    this.listener.off('listening', this.#onListening).off('deaf', this.#onDeaf);
    if (this.ownsListener) await this.listener.close();
    await super.close();
  }

  async #claim<T>(limit: number, lockSeconds: number): Promise<Message<T>[]> {
    this.assertNotFenced();
    const messages = await sql.claimMessages<T>(this.db, {
      queueId: this.queue.id,
      limit,
      maxReadCount: this.#maxReadCount,
      foreignLeases: this.#foreignLeases,
      worker: this.incarnation,
      lockSeconds,
    });
    if (!messages) throw this.fence();
    return messages.map((message) => new Message(message, this));
  }

  /** A server that is away comes back: a consumer outlives it. */
  async #claimUntilAnswered<T>(
    limit: number,
    lockSeconds: number,
    signal: AbortSignal,
  ): Promise<Message<T>[]> {
    for (let failures = 1; ; failures++) {
      try {
        return await this.#claim<T>(limit, lockSeconds);
      } catch (error) {
        if (!(error instanceof SluiceError && error.transient) || signal.aborted) throw error;
        this.emit('claimError', error);
        await sleep(backoffMs(failures, CLAIM_RETRY), signal);
      }
    }
  }

  /** How long to wait for the bell: until the next message is due, at most the poll interval. */
  async #pauseMs(empty: number): Promise<number> {
    const dueMs = await sql.nextDueMs(this.db, this.queue.id, this.#maxReadCount).catch(() => undefined);
    if (dueMs === 0) return empty === 1 ? 0 : backoffMs(empty, DUE_BUT_EMPTY);
    return Math.min(Math.ceil(dueMs ?? Infinity), this.#pollIntervalMs * (0.9 + Math.random() * 0.2));
  }

  /** Rings when the queue's channel does. A ring between `reset` and `rung` is not missed. */
  #bell() {
    let bell: Deferred<void> = deferred();
    const unsubscribe = this.listener.subscribe(channelOf(this.db.schemaName, this.queue.id), () =>
      bell.resolve(),
    );
    return {
      reset: () => (bell = deferred()),
      rung: async (orAfterMs: number, signal: AbortSignal) => {
        const timer = new AbortController();
        const stop = () => timer.abort(signal.reason);
        signal.addEventListener('abort', stop, { once: true });
        try {
          await Promise.race([bell.promise, sleep(orAfterMs, timer.signal)]);
        } finally {
          timer.abort();
          signal.removeEventListener('abort', stop);
        }
      },
      close: unsubscribe,
    };
  }

  async #settle(statement: typeof sql.archiveMessages, held: readonly Held[]): Promise<boolean[]> {
    if (held.length === 0) return [];
    const deliveries = held.map((one) =>
      typeof one === 'string' ? { id: check.id('message id', one), readCount: null } : one,
    );
    return statement(this.db, this.incarnation, deliveries);
  }

  readonly #onListening = () => this.emit('listening');
  readonly #onDeaf = (reason: Error) => this.emit('deaf', reason);
}

/** A consumer's share of the configuration. */
export function consumerDefaults(config: Config): ConsumerOptions {
  const { defaultLockTimeSeconds, maxReadCount, pollIntervalMs, heartbeatIntervalSeconds } = config;
  return { lockSeconds: defaultLockTimeSeconds, maxReadCount, pollIntervalMs, heartbeatIntervalSeconds };
}

function checkOptions(options: ConsumerOptions) {
  return {
    lockSeconds: checkLock(options.lockSeconds ?? 30),
    maxReadCount: check.integer('maxReadCount', options.maxReadCount ?? 5, { min: 1, max: 2_147_483_647 }),
    pollIntervalMs: check.integer('pollIntervalMs', options.pollIntervalMs ?? 1_000, {
      min: 1,
      max: 3_600_000,
    }),
    foreignLeases: check.oneOf('foreignLeases', options.foreignLeases ?? 'stale', [
      'never',
      'stale',
      'expired',
    ]),
  };
}

function checkLock(seconds: number, field = 'lockSeconds'): number {
  return check.number(field, seconds, { min: 0, max: 2_592_000 });
}

function first(answers: boolean[]): boolean {
  return answers[0] === true;
}
