// Long because every way into a queue is here, each with the words about it.
import type { IngestStats } from '../streams/ingest-stats.js';
import { ProducerStream } from '../streams/producer-stream.js';
import * as check from './check.js';
import { Config } from './config.js';
import { type CallersClient, Db, type Queryable } from './db.js';
import { Doorbell } from './doorbell.js';
import { overPool } from './over-pool.js';
import { ClosedError } from './errors/index.js';
import type { OutgoingRow } from './ingest/call.js';
import { Backlog } from './ingest/backlog.js';
import { checkKey } from './ingest/dedupe-options.js';
import { checkDelay } from './ingest/delay.js';
import { EnqueueSink, snapshotTooOld } from './ingest/enqueue.js';
import {
  type BatchEnqueueOptions,
  checkDue,
  checkEnqueueOptions,
  ENQUEUE,
  ENQUEUE_DELAYED,
  type Enqueued,
  type EnqueueOptions,
} from './ingest/enqueue-options.js';
import { translateGone } from './ingest/gone.js';
import { ingest } from './ingest/ingest.js';
import type { IngestSource } from './ingest/source.js';
import { KeyPurge } from './ingest/key-purge.js';
import { outgoingRows, storedMessage } from './ingest/outgoing.js';
import { Rejects } from './ingest/rejects.js';
import { StreamSink } from './ingest/stream-sink.js';
import { checkWritableOptions, WRITABLE, type WritableOptions } from './ingest/writable-options.js';
import type { RateLimitStatus } from './limiter.js';
import { oneTransaction } from './on-client.js';
import { SETTLE, type SettleOptions } from './message.js';
import {
  checkProducerOptions,
  PRODUCER_CREATE,
  type ProducerCreateOptions,
  type ProducerOptions,
  producerSettings,
} from './producer-options.js';
import { replayMessage } from './sql/replay.js';
import * as scheduled from './sql/scheduled.js';
import type { IdLike, Queue, StoredMessage } from './types.js';
import type { PayloadRules } from './validation.js';
import { type Registration, Worker } from './worker.js';

/** What an ingest did. */
export type IngestSummary = IngestStats;

/** A turn that takes longer is given back: an open transaction holds vacuum back. */
const TURN_MS = 5_000;
/** Longest wait for the answer to a statement. */
const ANSWER_MS = 30_000;
const MAX_EXTENSION_SECONDS = 2_592_000;

/** Puts messages into one queue. Any number of tasks may share it. */
export class Producer<In = unknown, Out = In> extends Worker {
  readonly #doorbell: Doorbell;
  readonly #keyPurge: KeyPurge;
  readonly #calls: EnqueueSink;
  readonly #streams = new Set<Pick<ProducerStream<never>, 'fail' | 'once'>>();
  readonly #hurry = new AbortController();
  #closed: Promise<void> | undefined;

  private constructor(
    db: Db,
    readonly queue: Queue,
    private readonly options: ReturnType<typeof checkProducerOptions<In, Out>>,
    registration: Registration,
  ) {
    super(db, registration);
    this.#doorbell = new Doorbell(db, queue.id);
    this.#keyPurge = new KeyPurge(db);
    this.#calls = new EnqueueSink({
      db,
      queueId: queue.id,
      worker: this.incarnation,
      retry: options.retry,
      translate: (error) => translateGone(error, queue.name, () => this.fence()),
      onCommit: () => this.#doorbell.ring(),
      hurry: this.#hurry.signal,
    });
  }

  /**
   * Registers a producer over a pool of the caller's.
   * @throws {WorkerAlreadyActiveError} a live worker has that hostname and port
   * @throws {QueueNotFoundError} the queue was deleted meanwhile
   */
  static async create<In = unknown, Out = In>(
    options: ProducerCreateOptions<In, Out>,
  ): Promise<Producer<In, Out>> {
    const call = 'Producer.create()';
    const { pool, queue, config, ...given } = check.options(call, options, PRODUCER_CREATE);
    const settings = producerSettings<In, Out>(call, Config.of(config), given);
    check.queue('queue', queue);
    const { db, leave } = overPool(check.pool('pool', pool), config.schema);
    try {
      const producer = await Producer.open(db, queue, settings);
      producer.once('closed', () => void leave());
      return producer;
    } catch (error) {
      await leave();
      throw error;
    }
  }

  /** @internal for connect(), which shares one Db */
  static async open<In, Out>(
    db: Db,
    queue: Queue,
    options: ProducerOptions<In, Out>,
  ): Promise<Producer<In, Out>> {
    const checked = checkProducerOptions(options);
    return new Producer(db, queue, checked, await Worker.register(db, queue, options));
  }

  /** The rules that payloads must keep. */
  get payloadRules(): PayloadRules {
    return this.options.payloads.rules;
  }

  /** Where the rate limit stands; undefined without one. */
  get rateLimit(): RateLimitStatus | undefined {
    return this.options.limiter?.status;
  }

  /**
   * Enqueues one message. Calls at the same time share a statement; each gets its own message or its own error.
   *
   * @returns the message, with the very payload that was given, or what the schema made of it; with a `dedupeKey` that
   * the queue remembers, nothing
   * @throws {PayloadInvalidError | PayloadTooLargeError} nothing was sent, or the server refused this payload
   * @throws {ValidatorError} the schema failed instead of judging; nothing was sent
   * @throws {WorkerSuspendedError | ClosedError | WorkerFencedError} this producer may not enqueue
   * @throws {RateLimitedError} with `whenRateLimited: 'reject'`
   * @throws {AmbiguousEnqueueError} no answer came: the message may be in, so it was not sent again
   *
   * @example
   * const { id } = await producer.enqueue({ type: 'email', to: 'user@example.com' });
   *
   * @example
   * await client.query('begin');
   * await client.query('insert into orders …');
   * await producer.enqueue({ order: 42 }, { client }); // with the order, or not at all
   * await client.query('commit');
   */
  async enqueue<O extends EnqueueOptions = object>(payload: In, options?: O): Promise<Enqueued<Out, O>> {
    const [message] = await this.#enqueue('producer.enqueue()', payload, options);
    return message as Enqueued<Out, O>;
  }

  async #enqueue(call: string, payload: In, options: EnqueueOptions | undefined) {
    this.#assertOpen();
    const given = check.options<EnqueueOptions>(call, options, ENQUEUE);
    if (given.dedupeKey !== undefined) checkKey(given.dedupeKey, undefined);
    const rows = await outgoingRows(this.options, [payload], checkEnqueueOptions(given), true);
    return this.#put(rows, given);
  }

  /**
   * Enqueues a message that is due after a delay.
   * @param delaySeconds a whole number from 0 to 4,294,967,295
   * @throws as `enqueue`
   */
  async enqueueDelayed<O extends Omit<EnqueueOptions, 'delaySeconds' | 'at'> = object>(
    payload: In,
    delaySeconds: number,
    options?: O,
  ): Promise<Enqueued<Out, O>> {
    const call = 'producer.enqueueDelayed()';
    const given = check.options<Omit<EnqueueOptions, 'delaySeconds' | 'at'>>(call, options, ENQUEUE_DELAYED);
    const delayed: EnqueueOptions = { ...given, delaySeconds: checkDelay(delaySeconds) };
    const [message] = await this.#enqueue(call, payload, delayed);
    return message as Enqueued<Out, O>;
  }

  /**
   * Enqueues all messages or none, in one statement: up to 256 MiB of JSON. For more, or to get the ids of none, there
   * is `ingest`, which is faster.
   * @returns the messages, in input order, with ascending ids; undefined for one whose `dedupeKey`
   * was there already, or came earlier in the batch
   * @throws as `enqueue`; errors of a payload carry its `index`
   */
  async batchEnqueue<O extends BatchEnqueueOptions<In> = object>(
    payloads: readonly In[],
    options?: O & BatchEnqueueOptions<In>, // which types the callback's parameters
  ): Promise<Enqueued<Out, O>[]> {
    this.#assertOpen();
    const given = check.options<BatchEnqueueOptions<In>>('producer.batchEnqueue()', options, ENQUEUE);
    if (given.dedupeKey !== undefined) check.callback('dedupeKey', given.dedupeKey);
    const list = check.list('payloads', payloads, 'an array (use ingest() for other iterables)');
    const rows = await outgoingRows(this.options, list, checkEnqueueOptions(given));
    const messages = rows.length === 0 ? [] : await this.#put(rows, given);
    return messages as Enqueued<Out, O>[];
  }

  /**
   * Deletes a message of this queue that nobody has taken yet, delayed or due.
   * @returns false where it was taken, archived, or never there
   * @throws {WorkerFencedError | ClosedError}
   */
  async cancel(messageId: IdLike, options: SettleOptions = {}): Promise<boolean> {
    const { client } = check.options('producer.cancel()', options, SETTLE);
    return this.#change('cancelling', messageId, client, scheduled.cancelMessage);
  }

  /**
   * Changes when a message of this queue, that nobody has taken yet, is due.
   * @param due seconds from now, or a time; one that has passed means now
   * @returns false where it was taken, archived, or never there
   * @throws {WorkerFencedError | ClosedError}
   */
  async reschedule(messageId: IdLike, due: scheduled.Due, options: SettleOptions = {}): Promise<boolean> {
    const { client } = check.options('producer.reschedule()', options, SETTLE);
    const checked = checkDue(due);
    const moved = await this.#change('rescheduling', messageId, client, (on, target) =>
      scheduled.rescheduleMessage(on, target, checked),
    );
    if (moved) this.#doorbell.ring(); // it may be due sooner than what consumers sleep for
    return moved;
  }

  /**
   * Puts an archived message of this queue back, done or dead: under its id, as if it had been enqueued now.
   * @returns the message as it is now; undefined where it is not archived, or was never there
   * @throws {WorkerFencedError | ClosedError}
   */
  async replay(messageId: IdLike): Promise<StoredMessage<Out> | undefined> {
    const message = await this.#change('replaying', messageId, undefined, replayMessage<Out>);
    if (message) this.#doorbell.ring();
    return message || undefined;
  }

  /**
   * Adds `seconds` to the lease of a message of this queue, whoever holds it. (A consumer extends its own with
   * `consumer.extendVisibility`.)
   * @param seconds from 0 to 2,592,000 (30 days)
   * @returns false where no lease is running: not taken, run out, released, archived, or never there
   * @throws {WorkerFencedError | ClosedError}
   */
  async extendVisibility(messageId: IdLike, seconds: number): Promise<boolean> {
    check.number('seconds', seconds, { min: 0, max: MAX_EXTENSION_SECONDS });
    return this.#change('extending a lease', messageId, undefined, (on, target) =>
      scheduled.extendLease(on, target, seconds),
    );
  }

  /**
   * A stream into the queue: objects become messages, batch by batch, each batch in one transaction, in order and
   * exactly once. `finish` means that every row is committed. While the producer is suspended the stream waits.
   *
   * @example
   * await pipeline(source, producer.writable({ batchSize: 5_000 }));
   */
  writable<T extends In = In>(options: WritableOptions<T> = {}): ProducerStream<T> {
    return this.#writable(check.options('producer.writable()', options, WRITABLE));
  }

  #writable<T extends In>(options: WritableOptions<T>): ProducerStream<T> {
    this.#assertOpen();
    const { batch, rejects, maxBacklog, ...sending } = checkWritableOptions(options);
    const { payloads, validate, limiter, maxReadCount } = this.options;
    const { maxPayloadBytes } = payloads.rules;
    const meantFor = this.queue.name;
    const sink = new StreamSink<T>({
      ...sending,
      rejects: rejects && new Rejects({ ...rejects, meantFor, maxPayloadBytes }),
      backlog:
        maxBacklog === undefined ? undefined : new Backlog(this.db, this.queue.id, maxBacklog, maxReadCount),
      keyPurge: this.#keyPurge,
      db: this.db,
      queue: this.queue,
      worker: this.incarnation,
      fenced: () => this.fence(),
      check: payloads,
      validate,
      pace: async (rows, signal) => {
        await this.whenReady(signal);
        await limiter?.wait(rows, signal);
      },
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
   *
   * With `resume` it goes on where an earlier run of that name ended: behind that position it opens a source that is
   * given as a function, and reads over the beginning of any other. When the server has lost commits that it had
   * confirmed (an asynchronous fail-over), it opens such a function again, behind what is left.
   * @returns what was done, once every row is committed; when it rejects nothing is on its way any more, and
   * `error.progress` says what is in
   * @throws {SluiceError} whatever went wrong: an IngestError has as its cause what the source or a callback threw
   *
   * @example
   * await producer.ingest(rows, { resume: 'orders-2026-11' });
   *
   * @example
   * const position = (line: Line) => line.endOffset;
   * await producer.ingest((from) => linesOf(file, Number(from ?? 0)), { resume: { name: 'log', position } });
   */
  async ingest<T extends In = In>(
    source: IngestSource<T>,
    options: WritableOptions<T> = {},
  ): Promise<IngestSummary> {
    const given = check.options('producer.ingest()', options, WRITABLE);
    return ingest(() => this.#writable(given), source, given.resume);
  }

  /**
   * Sends what was accepted, ends unfinished streams and calls that wait for the rate limit with a ClosedError, then
   * suspends and shuts down. Twice is fine.
   */
  override close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    // Calls that were made before pass first: a turn later they are sent, or wait for the limit.
    await new Promise((resolve) => setImmediate(resolve));
    this.leave();
    this.options.limiter?.end(new ClosedError('the producer'));
    const closing = [...this.#streams].map(
      (stream) => new Promise((resolve) => stream.once('close', resolve)),
    );
    for (const stream of this.#streams) stream.fail(new ClosedError('the producer'));
    this.#hurry.abort();
    await Promise.all(closing);
    await this.#calls.idle();
    await this.#doorbell.quiet();
    await this.#keyPurge.quiet();
    await super.close();
  }

  /** Something new may begin. What began before close() has until its next turn to get past assertReady(). */
  #assertOpen(): void {
    if (this.#closed) throw new ClosedError('the producer');
    this.assertReady();
  }

  async #put(
    rows: readonly OutgoingRow[],
    { client, notify = true, signal }: Omit<EnqueueOptions, 'dedupeKey'>,
  ): Promise<(StoredMessage<Out> | undefined)[]> {
    signal?.throwIfAborted();
    await this.options.limiter?.take(rows.length, signal);
    this.assertReady(); // once more: time may have passed
    const outcome = client
      ? await this.#calls.within(client, rows, notify ? this.#doorbell.channel : null)
      : await this.#calls.put(rows, signal);
    if (rows.some(({ once }) => once)) this.#keyPurge.remind();
    return outcome.map((row) => row && storedMessage<Out>(row, this.queue.id, this.workerId));
  }

  async #change<T>(
    what: string,
    messageId: IdLike,
    client: CallersClient | undefined,
    change: (on: Queryable, target: scheduled.Target) => Promise<T | undefined>,
  ): Promise<T> {
    this.assertRunning();
    const target = {
      messageId: check.id('messageId', messageId),
      queueId: this.queue.id,
      worker: this.incarnation,
    };
    if (client !== undefined) check.client('client', client);
    const changed = client
      ? await change(this.db.on(client), target)
      : await oneTransaction(this.db, { what, ms: ANSWER_MS }, (session) => change(session, target));
    if (changed !== undefined) return changed;
    // Only the present knows: the snapshot of a transaction of the caller's may be older than this producer.
    if (client && (await this.#calls.isRegistered())) throw snapshotTooOld();
    throw this.fence();
  }
}
