import { Writable, type WritableOptions } from 'node:stream';
import { type Deferred, deferred, orAbort } from '../src/deferred.js';
import { ClosedError, type IngestProgress, SluiceError } from '../src/errors/index.js';
import { asError, ownError } from '../src/errors/thrown.js';
import { endOnAbort } from './end-on-abort.js';
import { type IngestStats, Tally } from './ingest-stats.js';
import type { BacklogEvent, CommittedBatch, FillingBatch, RetryEvent, Sink, SinkEvents } from './sink.js';
import { Stint } from './stint.js';

export interface BatchOptions {
  /** Rows that make a batch full. @default 5000 */
  batchSize: number;
  /** Bytes that make a batch full. @default 8 MiB */
  batchBytes: number;
  /** Longest time that a row waits for its batch to fill, in ms. @default 100 */
  lingerMs: number;
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

type Callback = (error?: Error | null) => void;

/**
 * The batch that takes items. It is full, or its linger time is over, or the stream ends: then it is *due*, and goes on
 * filling, unless it is full, until there is a place in flight for it.
 */
interface Filling<T> {
  readonly batch: FillingBatch<T>;
  /** Of the batch, when the last item was taken. */
  bytes: number;
  linger: NodeJS.Timeout | undefined;
  due: boolean;
  /** Of the write that made it full: the source waits until the batch has its place. */
  full: Callback | undefined;
}

/**
 * Gathers objects into batches and commits them in order. `finish` means that every row is committed; a failure means
 * that an exact prefix of the source is: `stream.progress` says how long it is once the stream is closed, and so does
 * `error.progress` of the errors that the stream itself ends with. What a source or a callback threw is passed on as it
 * is, and not written to.
 */
export class ProducerStream<T> extends EventfulWritable {
  /** Ends what the sink is doing. */
  readonly #ending = new AbortController();
  readonly #resumeFrom: Deferred<string | undefined> = deferred();
  /** Batches that are due, or in flight. */
  readonly #sending = new Set<Promise<void>>();
  readonly #tally = new Tally();
  readonly #stint = new Stint();
  /** Errors that nobody but this stream holds. */
  readonly #own = new WeakSet<Error>();
  #filling: Filling<T> | undefined;
  /** Place of the next item in the source. */
  #index = 0;

  constructor(
    private readonly sink: Sink<T>,
    private readonly options: BatchOptions,
    signal?: AbortSignal,
  ) {
    super({ objectMode: true });
    endOnAbort(signal, this, (error) => this.fail(error));
  }

  /**
   * Where the source has to go on: the position behind the last item that an earlier run of the stream has committed;
   * undefined for the beginning. Rejects when the stream cannot be opened.
   */
  get resumeFrom(): Promise<string | undefined> {
    return this.#resumeFrom.promise;
  }

  /** How far it has come; once it is closed, however it ended, that is exact. */
  get progress(): IngestProgress {
    return this.#tally.progress;
  }

  get stats(): IngestStats {
    return this.#tally.stats;
  }

  /** @internal for ingest(): so many items of the source come before the first that is written. */
  beginAt(index: number): void {
    this.#index = index;
  }

  /** Ends the stream at once. Batches in flight roll back, except one that is committing. */
  override destroy(error?: Error): this {
    const reason = error ? asError(error) : undefined;
    const ending = reason ?? new ClosedError('the stream');
    this.#resumeFrom.reject(ending);
    // Here and not in _destroy, which Node does not call before _construct is over.
    this.#ending.abort(ending);
    return super.destroy(reason);
  }

  /** @internal As destroy(), for what went wrong in here: with an error that says how far the stream came. */
  fail(thrown: unknown): void {
    this.destroy(this.#ownError(thrown));
  }

  /** Passes on where the sink begins, or why it does not. */
  override _construct(callback: Callback): void {
    const tell: SinkEvents = {
      onRetry: (event) => {
        this.#tally.retried();
        this.emit('retry', event);
      },
      onBacklog: (event) => this.emit('backlog', event),
    };
    this.sink.open(this.#ending.signal, tell).then(
      ({ position, index }) => {
        this.#tally.opened(position);
        this.#index = index;
        this.#resumeFrom.resolve(position === '' ? undefined : position);
        callback();
      },
      (thrown: unknown) => {
        // Node would report the abort's reason as one more error, even after a destroy() without any.
        callback(this.destroyed ? null : this.#ownError(thrown));
      },
    );
  }

  /** Passes on that the item is in a batch or among its rejects, or why it ends the stream. */
  override _write(item: T, _encoding: BufferEncoding, callback: Callback): void {
    this.#tally.arrived();
    if (this.sink.validate) this.#validate(item, callback);
    else this.#take(item, item, callback);
  }

  /** Passes on that every row is committed. A batch that fails destroys the stream, and then nobody listens. */
  override _final(callback: Callback): void {
    if (this.#filling) this.#due(this.#filling);
    void this.#settled().then(() => callback());
  }

  /** Passes on why the stream ended, once nothing of it is on its way and it is known what is committed. */
  override _destroy(error: Error | null, callback: Callback): void {
    clearTimeout(this.#filling?.linger);
    void this.#close(error).then(callback);
  }

  async #close(error: Error | null): Promise<Error | null> {
    await this.#settled();
    const progress = await this.sink.close();
    this.#tally.ended(progress);
    if (error instanceof SluiceError && this.#own.has(error)) error.progress = progress;
    return error;
  }

  #validate(item: T, callback: Callback): void {
    let payload: unknown;
    try {
      payload = this.sink.validate?.(item, this.#index);
    } catch (error) {
      this.#reject(item, error, callback);
      return;
    }
    const take = (validated: unknown) => {
      if (this.destroyed) this.#refuse(this.#ending.signal.reason, callback);
      else this.#take(item, validated, callback);
    };
    if (!(payload instanceof Promise)) take(payload);
    else {
      orAbort<unknown>(payload, this.#ending.signal).then(take, (error: unknown) => {
        if (this.destroyed) this.#refuse(error, callback);
        else this.#reject(item, error, callback);
      });
    }
  }

  #take(item: T, payload: unknown, callback: Callback): void {
    // Looked up this late: while the item was validated, the batch that was filling may have been sent.
    const filling = this.#current();
    try {
      filling.batch.append(item, payload, this.#index);
    } catch (error) {
      this.#reject(item, error, callback);
      return;
    }
    this.#taken(filling, callback);
  }

  /** The stream may go on without an item that cannot be stored, if it was told to. */
  #reject(item: T, error: unknown, callback: Callback): void {
    const filling = this.#current();
    try {
      if (filling.batch.reject(item, error, this.#index)) this.#taken(filling, callback);
      else this.#refuse(error, callback);
    } catch (worse) {
      this.#refuse(worse, callback);
    }
  }

  #current(): Filling<T> {
    this.#filling ??= { batch: this.sink.batch(), bytes: 0, linger: undefined, due: false, full: undefined };
    return this.#filling;
  }

  #taken(filling: Filling<T>, callback: Callback): void {
    const { count, bytes } = filling.batch;
    this.#tally.taken();
    this.#index++;
    const mustYield = this.#stint.isOver(bytes - filling.bytes);
    filling.bytes = bytes;
    if (count >= this.options.batchSize || bytes >= this.options.batchBytes) {
      filling.full = callback;
      this.#due(filling);
      return;
    }
    if (count === 1) filling.linger = setTimeout(() => this.#due(filling), this.options.lingerMs);
    if (mustYield) setImmediate(callback);
    else callback();
  }

  /** An item that cannot be stored ends the stream, but the batches before its own are still committed. */
  #refuse(thrown: unknown, callback: Callback): void {
    clearTimeout(this.#filling?.linger);
    void this.#settled().then(() => callback(this.#ownError(thrown)));
  }

  /** Sends the batch as soon as there is a place for it. */
  #due(filling: Filling<T>): void {
    clearTimeout(filling.linger);
    if (filling.due) return;
    filling.due = true;
    const sending = this.#send(filling)
      .catch((error: unknown) => this.#fail(error))
      .finally(() => this.#sending.delete(sending));
    this.#sending.add(sending);
  }

  async #send(filling: Filling<T>): Promise<void> {
    await this.sink.place();
    this.#filling = undefined;
    const committing = filling.batch.send();
    goOn(filling);
    const committed = await committing;
    this.#tally.committed(committed);
    this.emit('batch', committed);
  }

  /** Every batch that was due has ended; none rejects. */
  #settled(): Promise<unknown> {
    return Promise.all(this.#sending);
  }

  /** The first failure ends the stream; the write that made the next batch full is not left waiting for its place. */
  #fail(thrown: unknown): void {
    const error = this.#ownError(thrown);
    this.destroy(error);
    if (this.#filling) goOn(this.#filling, error);
  }

  #ownError(thrown: unknown): Error {
    const error = ownError(thrown);
    this.#own.add(error);
    return error;
  }
}

/** Lets the source go on behind the item that made the batch full, or tells it why not. Once. */
function goOn(filling: Filling<unknown>, error?: Error): void {
  const { full } = filling;
  filling.full = undefined;
  full?.(error);
}
