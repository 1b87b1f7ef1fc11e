import { Writable, type WritableOptions } from 'node:stream';
import pLimit from 'p-limit';
import { type IngestProgress, SluiceError } from '../src/errors.js';

/** A batch: takes items until the stream sends it. */
export interface FillingBatch<T> {
  readonly count: number;
  readonly bytes: number;
  /** Adds one item, or throws and adds nothing. */
  append(item: T, index: number): void;
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

/** Synchronous callbacks for ever would starve timers, the heartbeat's among them. */
const YIELD_EVERY = 1_024;

/**
 * Gathers objects into batches and commits them in order. `finish` means that every row is committed; a failure means
 * that an exact prefix of the source is, and SluiceErrors say how long it is (`error.progress`).
 */
export class ProducerStream<T> extends EventfulWritable {
  readonly #limit;
  readonly #abort = new AbortController();
  readonly #inFlight = new Set<Promise<void>>();
  #batch: FillingBatch<T> | undefined;
  #linger: NodeJS.Timeout | undefined;
  /** The linger time of the current batch is over, but all places in flight were taken. */
  #overdue = false;
  /** A full batch waits for a place in flight, and the source waits with it. */
  #waiting: ((error?: Error | null) => void) | undefined;
  #startedAt: number | undefined;
  readonly #stats = { accepted: 0, committed: 0, bytes: 0, batches: 0, retries: 0 };
  readonly #ms = { begin: 0, transfer: 0, turn: 0, commit: 0 };

  constructor(
    private readonly sink: Sink<T>,
    private readonly options: BatchOptions,
    private readonly signal?: AbortSignal,
  ) {
    super({ objectMode: true });
    this.#limit = pLimit(options.concurrency);
    signal?.addEventListener('abort', this.#onAbort, { once: true });
    if (signal?.aborted) process.nextTick(this.#onAbort);
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
    this.#abort.abort(error ?? new Error('the stream was destroyed'));
    return super.destroy(error);
  }

  override _construct(callback: (error?: Error | null) => void): void {
    const onRetry = (event: RetryEvent) => {
      this.#stats.retries++;
      this.emit('retry', event);
    };
    this.sink.open(this.#abort.signal, onRetry).then(() => callback(), callback);
  }

  override _write(item: T, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#startedAt ??= performance.now();
    try {
      this.#batch ??= this.sink.batch();
      this.#batch.append(item, this.#stats.accepted);
    } catch (error) {
      callback(error as Error);
      return;
    }
    this.#stats.accepted++;
    const { count, bytes } = this.#batch;
    if (count >= this.options.batchSize || bytes >= this.options.batchBytes) this.#whenRoom(callback);
    else {
      if (count === 1) this.#linger = setTimeout(this.#onLinger, this.options.lingerMs);
      if (this.#stats.accepted % YIELD_EVERY === 0) setImmediate(callback);
      else callback();
    }
  }

  override _final(callback: (error?: Error | null) => void): void {
    const settle = () => {
      Promise.all(this.#inFlight).then(() => callback(), callback);
    };
    if (!this.#batch) settle();
    else this.#whenRoom((error) => (error ? callback(error) : settle()));
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    clearTimeout(this.#linger);
    this.signal?.removeEventListener('abort', this.#onAbort);
    void this.#close(error).then(callback);
  }

  async #close(error: Error | null): Promise<Error | null> {
    await Promise.allSettled(this.#inFlight);
    const progress = await this.sink.close();
    this.#stats.committed = progress.committed;
    if (error instanceof SluiceError) error.progress = progress;
    return error;
  }

  /** Sends the batch as soon as fewer than `concurrency` are in flight, then calls back: at once, or when one ends. */
  #whenRoom(callback: (error?: Error | null) => void): void {
    if (this.#inFlight.size < this.options.concurrency) {
      this.#send();
      callback();
    } else this.#waiting = callback;
  }

  readonly #onLinger = () => {
    if (this.#inFlight.size < this.options.concurrency) this.#send();
    else this.#overdue = true;
  };

  readonly #onAbort = () => {
    this.destroy(this.signal?.reason as Error);
  };

  #send(): void {
    const batch = this.#batch;
    if (!batch) return;
    this.#batch = undefined;
    this.#overdue = false;
    clearTimeout(this.#linger);
    const sending: Promise<void> = this.#limit(() => batch.send()).then(
      (committed) => {
        this.#inFlight.delete(sending);
        this.#count(committed);
        this.emit('batch', committed);
        this.#next();
      },
      (error: unknown) => {
        this.#inFlight.delete(sending);
        this.#fail(error as Error);
      },
    );
    this.#inFlight.add(sending);
  }

  #next(): void {
    if (this.destroyed) return;
    const callback = this.#waiting;
    this.#waiting = undefined;
    if (callback) this.#whenRoom(callback);
    else if (this.#overdue) this.#send();
  }

  #count({ rows, bytes, ms }: CommittedBatch): void {
    this.#stats.committed += rows;
    this.#stats.bytes += bytes;
    this.#stats.batches++;
    for (const phase of ['begin', 'transfer', 'turn', 'commit'] as const) this.#ms[phase] += ms[phase];
  }

  /** The first failure ends the stream; the write or end that is waiting learns it too. */
  #fail(error: Error): void {
    const callback = this.#waiting;
    this.#waiting = undefined;
    this.destroy(error);
    callback?.(error);
  }
}
