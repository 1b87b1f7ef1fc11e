import { once } from 'node:events';
import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type pg from 'pg';
import { type BatchOptions, type IngestStats, ProducerStream } from '../streams/producer-stream.js';
import * as check from './check.js';
import type { Config } from './config.js';
import { Db } from './db.js';
import { Doorbell } from './doorbell.js';
import { ClosedError } from './errors/index.js';
import type { FlushMethod } from './ingest/flush.js';
import { checkDelay, StreamSink } from './ingest/stream-sink.js';
import type { Queue } from './types.js';
import { type Registration, Worker, type WorkerOptions } from './worker.js';

export interface ProducerOptions extends WorkerOptions {
  /** Longest payload, in bytes of JSON. @default 1048576 */
  maxPayloadBytes?: number;
}

/** How a producer is made over a pool of the caller's. */
export interface ProducerCreateOptions extends WorkerOptions {
  pool: pg.Pool;
  queue: Queue;
  config: Config;
}

export interface WritableOptions<T> extends Partial<BatchOptions> {
  /**
   * Seconds until a message is due, for all messages or by item: a whole number from 0 to 4,294,967,295.
   * @default 0
   */
  delaySeconds?: number | ((item: T) => number);
  /**
   * How batches are sent. `auto` takes binary COPY, or an INSERT where the server refuses COPY (row-level security).
   * @default 'auto'
   */
  method?: FlushMethod | 'auto';
  /** How often a batch that failed for a passing reason is sent again before the stream fails. @default 10 */
  retries?: number;
  /** Wait before the first of these retries, in ms; it doubles up to `retryMaxMs`, with jitter. @default 50 */
  retryBaseMs?: number;
  /** Longest wait before a retry, in ms. @default 5000 */
  retryMaxMs?: number;
  /** Longest time for one try of one batch, in ms; then its connection is cut and the batch sent again. @default 30000 */
  batchTimeoutMs?: number;
  /** Ends the stream at once when it aborts: with an AbortError whose `cause` is the signal's reason. */
  signal?: AbortSignal;
}

/** What an ingest did. */
export type IngestSummary = IngestStats;

/** A turn that takes longer is given back: an open transaction holds vacuum back. */
const TURN_MS = 5_000;

/** Puts messages into one queue. */
export class Producer extends Worker {
  readonly #doorbell: Doorbell;
  readonly #streams = new Set<Pick<Writable, 'destroy' | 'once'>>();
  #closed: Promise<void> | undefined;

  private constructor(
    db: Db,
    readonly queue: Queue,
    private readonly maxPayloadBytes: number,
    registration: Registration,
  ) {
    super(db, registration);
    this.#doorbell = new Doorbell(db, queue.id);
  }

  /**
   * Registers a producer over a pool of the caller's.
   * @throws {WorkerAlreadyActiveError} a live worker has that hostname and port
   */
  static async create({ pool, queue, config, ...options }: ProducerCreateOptions): Promise<Producer> {
    const { maxPayloadBytes, heartbeatIntervalSeconds } = config;
    const db = Db.over(pool, config.schema);
    try {
      const settings = { maxPayloadBytes, heartbeatIntervalSeconds, ...options };
      const producer = await Producer.open(db, queue, settings);
      producer.once('closed', () => void db.close());
      return producer;
    } catch (error) {
      await db.close();
      throw error;
    }
  }

  /** @internal for connect(), which shares one Db */
  static async open(db: Db, queue: Queue, options: ProducerOptions): Promise<Producer> {
    const maxPayloadBytes = check.integer('maxPayloadBytes', options.maxPayloadBytes ?? 1_048_576, {
      min: 1,
    });
    return new Producer(db, queue, maxPayloadBytes, await Worker.register(db, queue, options));
  }

  /**
   * A stream into the queue: objects become messages, batch by batch, each batch in one transaction, in order and
   * exactly once. `finish` means that every row is committed.
   *
   * @example
   * await pipeline(source, producer.writable({ batchSize: 5_000 }));
   */
  writable<T = unknown>(options: WritableOptions<T> = {}): ProducerStream<T> {
    this.assertRunning();
    if (this.#closed) throw new ClosedError('the producer');
    const { batch, ...sending } = checkWritableOptions(options);
    const sink = new StreamSink<T>({
      ...sending,
      db: this.db,
      queue: this.queue,
      workerName: this.workerName,
      worker: this.incarnation,
      maxPayloadBytes: this.maxPayloadBytes,
      turnMs: TURN_MS,
      onCommit: () => this.#doorbell.ring(),
    });
    const stream = new ProducerStream<T>(sink, batch, options.signal);
    this.#streams.add(stream);
    stream.once('close', () => this.#streams.delete(stream));
    return stream;
  }

  /**
   * Takes all items of an iterable into the queue.
   * @returns what was done, once every row is committed; when it rejects nothing is on its way any more
   */
  async ingest<T>(
    items: Iterable<T> | AsyncIterable<T>,
    options: WritableOptions<T> = {},
  ): Promise<IngestSummary> {
    const stream = this.writable(options);
    try {
      await pipeline(Readable.from(items), stream);
      return stream.stats;
    } finally {
      // pipeline() does not wait for it when the source fails.
      if (!stream.closed) await once(stream, 'close');
    }
  }

  /** Ends unfinished streams with a ClosedError, then suspends and shuts down. Twice is fine. */
  override close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const closing = [...this.#streams].map(
      (stream) => new Promise((resolve) => stream.once('close', resolve)),
    );
    for (const stream of this.#streams) stream.destroy(new ClosedError('the producer'));
    await Promise.all(closing);
    await this.#doorbell.quiet();
    await super.close();
  }
}

function checkWritableOptions<T>(options: WritableOptions<T>) {
  const { delaySeconds = 0 } = options;
  return {
    batch: {
      batchSize: check.integer('batchSize', options.batchSize ?? 5_000, { min: 1, max: 1_000_000 }),
      batchBytes: check.integer('batchBytes', options.batchBytes ?? 8 * 1_024 * 1_024, {
        min: 1,
        max: 512 * 1_024 * 1_024,
      }),
      lingerMs: check.integer('lingerMs', options.lingerMs ?? 100, { min: 0, max: 3_600_000 }),
      concurrency: check.integer('concurrency', options.concurrency ?? 2, { min: 1, max: 4 }),
    },
    delaySeconds: typeof delaySeconds === 'function' ? delaySeconds : checkDelay(delaySeconds),
    method: check.oneOf('method', options.method ?? 'auto', ['auto', 'copy', 'insert']),
    retry: {
      retries: check.integer('retries', options.retries ?? 10, { min: 0, max: 1_000_000 }),
      baseMs: check.integer('retryBaseMs', options.retryBaseMs ?? 50, { min: 1, max: 3_600_000 }),
      maxMs: check.integer('retryMaxMs', options.retryMaxMs ?? 5_000, { min: 1, max: 3_600_000 }),
    },
    batchTimeoutMs: check.integer('batchTimeoutMs', options.batchTimeoutMs ?? 30_000, {
      min: 100,
      max: 3_600_000,
    }),
  };
}
