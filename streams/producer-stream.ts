import { Writable, type WritableOptions } from 'node:stream';
import pLimit from 'p-limit';
import { orAbort } from '../src/deferred.js';
import { ClosedError, type IngestProgress, SluiceError } from '../src/errors/index.js';
import { endOnAbort } from './end-on-abort.js';

/** A batch: takes items until the stream sends it. */
export interface FillingBatch<T> {
  readonly count: number;
  readonly bytes: number;
  /**
   * Adds one item, or throws and adds nothing.
   * @param payload what is stored: what `validate` made of the item, or the item itself
   */
  append(item: T, payload: unknown, index: number): void;
  /** Resolves when its rows are committed. Called in order, `concurrency` at a time; the batch is not used again. */
  send(): Promise<CommittedBatch>;
}

/** What a batch was when it was committed. */
export interface CommittedBatch {
  /** Number of the batch in its stream, counted from 1. */
  seq: number;
  rows: number;
  bytes: number;
  method: 'copy' | 'insert';
  /** Time in ms: to get the transaction, to send the rows, to wait for the batch before, to commit. */
  ms: { begin: number; transfer: number; turn: number; commit: number };
}

/** Where the stream's rows go. Functions only: the stream knows neither client nor SQL. */
export interface Sink<T> {
  /** Makes ready; nothing else is called before it resolves. */
  open(signal: AbortSignal, onRetry: (event: RetryEvent) => void): Promise<void>;
  /**
   * Makes the payload that is stored of an item, or a Promise of it; throws or rejects to refuse the item. Called once
   * per item, in order, one item at a time.
   */
  validate?(item: T, index: number): unknown;
  /** A new, empty batch. */
  batch(): FillingBatch<T>;
  /** Leaves nothing behind; called once, when no batch is in flight. Resolves with what is committed; never rejects. */
  close(): Promise<IngestProgress>;
}

export interface BatchOptions {
  /** Rows that make a batch full. @default 5000 */
  batchSize: number;
  /** Bytes that make a batch full. @default 8 MiB */
  batchBytes: number;
  /** Longest time that a row waits for its batch to fill, in ms. @default 100 */
  lingerMs: number;
  /** Batches in flight, from 1 to 4. @default 2 */
  concurrency: number;
}

/** What a stream has done so far. */
export interface IngestStats {
  /** Items taken from the source. */
  accepted: number;
  /** Rows that are in the queue. */
  committed: number;
  /** Bytes sent and committed. */
  bytes: number;
  batches: number;
  retries: number;
  /** Committed rows per second since the first item. */
  rowsPerSecond: number;
  /** Time of all batches by phase, in ms; batches overlap. */
  ms: CommittedBatch['ms'];
}

export interface RetryEvent {
  /** The batch that is sent again. */
  seq: number;
  /** How often it has failed. */
  attempt: number;
  error: Error;
  /** Wait before it is sent again, in ms. */
  delayMs: number;
}

/** Events of a ProducerStream beside those of every Writable. */
export interface ProducerStreamEvents {
  /** A batch is committed. */
  on(event: 'batch', listener: (batch: CommittedBatch) => void): this;
  /** A batch failed for a passing reason and will be sent again. */
  on(event: 'retry', listener: (event: RetryEvent) => void): this;
}

const EventfulWritable = Writable as unknown as new (
  options?: WritableOptions,
) => Writable & ProducerStreamEvents;

/** Synchronous callbacks for ever would starve timers, and the sockets of batches in flight: their round trips wait. */
const YIELD_EVERY = 128;

type Callback = (error?: Error | null) => void;

/**
 * Gathers objects into batches and commits them in order. `finish` means that every row is committed; a failure means
 * that an exact prefix of the source is, and SluiceErrors say how long it is (`error.progress`).
 */
export class ProducerStream<T> extends EventfulWritable {
  readonly #limit;
  readonly #abort = new AbortController();
  /** Batches that are sent, or wait for a place to be. */
  readonly #sending = new Set<Promise<void>>();
  /** The batch that takes items. While it waits for a place in flight it may go on filling. */
  #batch: FillingBatch<T> | undefined;
  #batchWaits = false;
  /** The callback of the write that filled the batch: the source waits until the batch has its place. */
  #full: Callback | undefined;
  #linger: NodeJS.Timeout | undefined;
  #startedAt: number | undefined;
  readonly #stats = { accepted: 0, committed: 0, bytes: 0, batches: 0, retries: 0 };
  readonly #ms = { begin: 0, transfer: 0, turn: 0, commit: 0 };

  constructor(
    private readonly sink: Sink<T>,
    private readonly options: BatchOptions,
    signal?: AbortSignal,
  ) {
    super({ objectMode: true });
    this.#limit = pLimit(options.concurrency);
    endOnAbort(signal, this);
  }

  get stats(): IngestStats {
    const seconds = this.#startedAt === undefined ? 0 : (performance.now() - this.#startedAt) / 1_000;
    return {
      ...this.#stats,
      rowsPerSecond: seconds === 0 ? 0 : this.#stats.committed / seconds,
      ms: { ...this.#ms },
    };
  }

  /** Ends the stream at once. Batches in flight roll back, except one that is committing. */
  override destroy(error?: Error): this {
    // Here and not in _destroy, which Node does not call before _construct is over.
    this.#abort.abort(error ?? new ClosedError('the stream'));
    return super.destroy(error);
  }

  override _construct(callback: Callback): void {
    const onRetry = (event: RetryEvent) => {
      this.#stats.retries++;
      this.emit('retry', event);
    };
    this.sink.open(this.#abort.signal, onRetry).then(
      () => callback(),
      // Node would report the abort's reason as one more error, even after a destroy() without any.
      (error: unknown) => callback(this.destroyed ? null : (error as Error)),
    );
  }

  override _write(item: T, _encoding: BufferEncoding, callback: Callback): void {
    this.#startedAt ??= performance.now();
    if (this.sink.validate) this.#validate(item, callback);
    else this.#take(item, item, callback);
  }

  #validate(item: T, callback: Callback): void {
    let payload: unknown;
    try {
      payload = this.sink.validate?.(item, this.#stats.accepted);
    } catch (error) {
      this.#refuse(error, callback);
      return;
    }
    // The batch is looked up afterwards: while the item is validated, the one that was filling may be sent.
    const take = (validated: unknown) => {
      if (this.destroyed) this.#refuse(this.#abort.signal.reason, callback);
      else this.#take(item, validated, callback);
    };
    if (!(payload instanceof Promise)) take(payload);
    else {
      orAbort<unknown>(payload, this.#abort.signal).then(take, (error: unknown) =>
        this.#refuse(error, callback),
      );
    }
  }

  #take(item: T, payload: unknown, callback: Callback): void {
    try {
      this.#batch ??= this.sink.batch();
      this.#batch.append(item, payload, this.#stats.accepted);
    } catch (error) {
      this.#refuse(error, callback);
      return;
    }
    this.#stats.accepted++;
    const { count, bytes } = this.#batch;
    if (count >= this.options.batchSize || bytes >= this.options.batchBytes) {
      this.#full = callback;
      this.#send();
    } else {
      if (count === 1) this.#linger = setTimeout(() => this.#send(), this.options.lingerMs);
      if (this.#stats.accepted % YIELD_EVERY === 0) setImmediate(callback);
      else callback();
    }
  }

  override _final(callback: Callback): void {
    if (this.#batch) this.#send();
    void Promise.all(this.#sending).then(() => callback());
  }

  override _destroy(error: Error | null, callback: Callback): void {
    clearTimeout(this.#linger);
    void this.#close(error).then(callback);
  }

  async #close(error: Error | null): Promise<Error | null> {
    await Promise.all(this.#sending);
    const progress = await this.sink.close();
    this.#stats.committed = progress.committed;
    if (error instanceof SluiceError) error.progress = progress;
    return error;
  }

  /** An item that cannot be stored ends the stream, but the batches before its own are still committed. */
  #refuse(reason: unknown, callback: Callback): void {
    clearTimeout(this.#linger);
    // Without an error the item would count as taken.
    const error = reason instanceof Error ? reason : new Error('the item was refused', { cause: reason });
    void Promise.all(this.#sending).then(() => callback(error));
  }

  /** Sends the batch as soon as fewer than `concurrency` are in flight. */
  #send(): void {
    clearTimeout(this.#linger);
    if (this.#batchWaits) return;
    this.#batchWaits = true;
    const sending = this.#limit(() => this.#takeBatch().send())
      .then((committed) => {
        this.#count(committed);
        this.emit('batch', committed);
      })
      .catch((error: unknown) => this.#fail(error as Error))
      .finally(() => this.#sending.delete(sending));
    this.#sending.add(sending);
  }

  #takeBatch(): FillingBatch<T> {
    const batch = this.#batch as FillingBatch<T>;
    this.#batch = undefined;
    this.#batchWaits = false;
    this.#goOn();
    return batch;
  }

  /** Lets the source go on, or tells it why not. */
  #goOn(error?: Error): void {
    const callback = this.#full;
    this.#full = undefined;
    callback?.(error);
  }

  #count({ rows, bytes, ms }: CommittedBatch): void {
    this.#stats.committed += rows;
    this.#stats.bytes += bytes;
    this.#stats.batches++;
    for (const phase of ['begin', 'transfer', 'turn', 'commit'] as const) this.#ms[phase] += ms[phase];
  }

  /** The first failure ends the stream. */
  #fail(error: Error): void {
    this.destroy(error);
    this.#goOn(error);
  }
}
