import { Writable, type WritableOptions } from 'node:stream';
import pLimit from 'p-limit';
import { type Deferred, deferred, orAbort } from '../src/deferred.js';
import { ClosedError, SluiceError } from '../src/errors/index.js';
import { endOnAbort } from './end-on-abort.js';
import type { BacklogEvent, CommittedBatch, FillingBatch, RetryEvent, Sink, SinkEvents } from './sink.js';

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
  /** Rows that it put into the queue. */
  committed: number;
  /** Items that were left out, since their keys had come before (`dedupeKey`). */
  duplicates: number;
  /** Items that were left out, since they cannot be stored (`onReject`, `rejectTo`). */
  rejected: number;
  /** Bytes sent and committed. */
  bytes: number;
  batches: number;
  /** How often a batch was sent again. */
  retries: number;
  /** Commits whose answer was lost, and that the ledger found. */
  resolved: number;
  /** Source position behind the last committed item; empty before the first. */
  position: string;
  /** Time since the first item, in seconds; it stands still when the stream is over. */
  seconds: number;
  /** Committed rows per second since the first item. */
  rowsPerSecond: number;
  /** Time of all batches by phase, in ms; batches overlap. */
  ms: CommittedBatch['ms'];
}

/** Events of a ProducerStream beside those of every Writable. */
export interface ProducerStreamEvents {
  /** A batch is committed. */
  on(event: 'batch', listener: (batch: CommittedBatch) => void): this;
  /** A batch failed for a passing reason and will be sent again. */
  on(event: 'retry', listener: (event: RetryEvent) => void): this;
  /** The queue is as full as `maxBacklog` allows: the stream waits. */
  on(event: 'backlog', listener: (event: BacklogEvent) => void): this;
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
  #endedAt: number | undefined;
  /** Place of the next item in the source. */
  #index = 0;
  readonly #stats = {
    ...{
      accepted: 0,
      committed: 0,
      duplicates: 0,
      rejected: 0,
      bytes: 0,
      batches: 0,
      retries: 0,
      resolved: 0,
    },
    position: '',
  };
  readonly #start: Deferred<string | undefined> = deferred();
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

  /**
   * Where the source has to go on: the position behind the last item that an earlier run of the stream has committed;
   * undefined for the beginning. Rejects when the stream cannot be opened.
   */
  get resumeFrom(): Promise<string | undefined> {
    return this.#start.promise;
  }

  /** @internal for ingest(): so many items of the source come before the first that is written. */
  beginAt(index: number): void {
    this.#index = index;
  }

  get stats(): IngestStats {
    const now = this.#endedAt ?? performance.now();
    const seconds = this.#startedAt === undefined ? 0 : (now - this.#startedAt) / 1_000;
    return {
      ...this.#stats,
      seconds,
      rowsPerSecond: seconds === 0 ? 0 : this.#stats.committed / seconds,
      ms: { ...this.#ms },
    };
  }

  /** Ends the stream at once. Batches in flight roll back, except one that is committing. */
  override destroy(error?: Error): this {
    this.#start.reject(error ?? new ClosedError('the stream'));
    // Here and not in _destroy, which Node does not call before _construct is over.
    this.#abort.abort(error ?? new ClosedError('the stream'));
    return super.destroy(error);
  }

  override _construct(callback: Callback): void {
    const tell: SinkEvents = {
      onRetry: (event) => {
        this.#stats.retries++;
        this.emit('retry', event);
      },
      onBacklog: (event) => this.emit('backlog', event),
    };
    this.sink.open(this.#abort.signal, tell).then(
      ({ position, index }) => {
        this.#stats.position = position;
        this.#index = index;
        this.#start.resolve(position === '' ? undefined : position);
        callback();
      },
      (error: unknown) => {
        this.#start.reject(error as Error);
        // Node would report the abort's reason as one more error, even after a destroy() without any.
        callback(this.destroyed ? null : (error as Error));
      },
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
      payload = this.sink.validate?.(item, this.#index);
    } catch (error) {
      this.#reject(item, error, callback);
      return;
    }
    // The batch is looked up afterwards: while the item is validated, the one that was filling may be sent.
    const take = (validated: unknown) => {
      if (this.destroyed) this.#refuse(this.#abort.signal.reason, callback);
      else this.#take(item, validated, callback);
    };
    if (!(payload instanceof Promise)) take(payload);
    else {
      orAbort<unknown>(payload, this.#abort.signal).then(take, (error: unknown) => {
        if (this.destroyed) this.#refuse(error, callback);
        else this.#reject(item, error, callback);
      });
    }
  }

  #take(item: T, payload: unknown, callback: Callback): void {
    const batch = (this.#batch ??= this.sink.batch());
    try {
      batch.append(item, payload, this.#index);
    } catch (error) {
      this.#reject(item, error, callback);
      return;
    }
    this.#taken(batch, callback);
  }

  /** The stream may go on without an item that cannot be stored, if it was told to. */
  #reject(item: T, error: unknown, callback: Callback): void {
    const batch = (this.#batch ??= this.sink.batch());
    try {
      if (batch.reject(item, error, this.#index)) this.#taken(batch, callback);
      else this.#refuse(error, callback);
    } catch (worse) {
      this.#refuse(worse, callback);
    }
  }

  #taken({ count, bytes }: FillingBatch<T>, callback: Callback): void {
    this.#stats.accepted++;
    this.#index++;
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
    this.#endedAt = performance.now();
    this.#stats.committed = progress.committed;
    this.#stats.position = progress.position;
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

  #count({ rows, duplicates, rejected, bytes, resolved, position, ms }: CommittedBatch): void {
    this.#stats.committed += rows;
    this.#stats.duplicates += duplicates;
    this.#stats.rejected += rejected;
    this.#stats.bytes += bytes;
    this.#stats.batches++;
    if (resolved) this.#stats.resolved++;
    this.#stats.position = position;
    for (const phase of ['begin', 'transfer', 'turn', 'commit'] as const) this.#ms[phase] += ms[phase];
  }

  /** The first failure ends the stream. */
  #fail(error: Error): void {
    this.destroy(error);
    this.#goOn(error);
  }
}
