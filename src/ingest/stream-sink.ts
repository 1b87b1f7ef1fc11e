import { randomUUID } from 'node:crypto';
import type { CommittedBatch, FillingBatch, RetryEvent, Sink } from '../../streams/producer-stream.js';
import { sleep } from '../backoff.js';
import type { Db } from '../db.js';
import {
  DatabaseError,
  type IngestProgress,
  QueueNotFoundError,
  SluiceError,
  type WorkerFencedError,
} from '../errors/index.js';
import type { StreamKey, Transaction } from '../sql/batches.js';
import * as sql from '../sql/streams.js';
import type { Incarnation } from '../sql/workers.js';
import type { Queue } from '../types.js';
import type { PayloadCheck } from '../validation.js';
import { checkDelay } from './delay.js';
import { Batch, endHalfDead, flush, type FlushMethod, type FlushTarget } from './flush.js';
import { rowFormat, Rows } from './rows.js';
import { type RetryOptions, Sequence } from './sequence.js';
import { watched } from './watch.js';

export interface StreamSinkOptions<T> {
  db: Db;
  queue: Queue;
  worker: Incarnation;
  fenced: () => WorkerFencedError;
  /** Resolves when so many rows may be sent. */
  pace: (rows: number, signal: AbortSignal) => Promise<void>;
  /** Called after each commit. */
  onCommit: () => void;
  /** What every payload must be like. */
  check: PayloadCheck;
  /** Makes the payload that is stored of an item, or a promise of it; throws or rejects to refuse the item. */
  validate?: ((payload: unknown, index: number) => unknown) | undefined;
  delaySeconds: number | ((item: T) => number);
  method: FlushMethod | 'auto';
  retry: RetryOptions;
  batchTimeoutMs: number;
  turnMs: number;
}

const FEATURE_NOT_SUPPORTED = '0A000';
const FOREIGN_KEY_VIOLATION = '23503';
/** Longest time to find out at the end whether the last batch is in. */
const SETTLE_TIMEOUT_MS = 10_000;
const SETTLE_RETRY_MS = 100;

/** Sends a stream's batches into one queue, in order and exactly once: the ledger row, the sequence, the buffers. */
export class StreamSink<T> implements Sink<T> {
  readonly validate?: (item: T, index: number) => unknown;
  readonly #options: StreamSinkOptions<T>;
  readonly #withVt: boolean;
  readonly #spare: Rows[] = [];
  #name: string | undefined;
  #key: StreamKey | undefined;
  #sequence: Sequence<Batch> | undefined;
  /** Items in the batches that were handed over; the position of the last of them. */
  #position = 0;
  #signal: AbortSignal | undefined;
  /** One batch after the other, so that none overtakes another while it is held back. */
  #paced: Promise<void> = Promise.resolve();
  #committed = 0;
  /** The last transaction of the batch whose COMMIT was not answered before the stream failed. There is at most one. */
  #inDoubt: Transaction | undefined;

  constructor(options: StreamSinkOptions<T>) {
    this.#options = options;
    if (options.validate) this.validate = options.validate;
    this.#withVt = options.delaySeconds !== 0;
  }

  async open(signal: AbortSignal, onRetry: (event: RetryEvent) => void): Promise<void> {
    const { db, queue, worker, fenced, batchTimeoutMs, retry, turnMs, method } = this.#options;
    this.#signal = signal;
    this.#name = `anonymous-${randomUUID()}`;
    const name = this.#name;
    const deadline = { what: 'opening the stream', ms: batchTimeoutMs };
    const key = await watched(db, signal, deadline, (session) =>
      sql.openStream(session, name, queue.id, worker.id),
    ).catch((error: unknown) => {
      if (!(error instanceof DatabaseError && error.sqlState === FOREIGN_KEY_VIOLATION)) throw error;
      throw error.constraint?.includes('worker') ? fenced() : new QueueNotFoundError(queue.name);
    });
    const target: FlushTarget = {
      db,
      queue,
      worker,
      fenced,
      stream: { ...key, name },
      withVt: this.#withVt,
      batchTimeoutMs,
      // As fast as INSERT for small batches and faster for big ones: benchmarks/README.md.
      method: method === 'auto' ? 'copy' : method,
    };
    this.#key = key;
    this.#sequence = new Sequence<Batch>((batch, turn) => flush(target, batch, turn), {
      signal,
      retry,
      turnMs,
      onRetry: (seq, attempt, error, delayMs) => onRetry({ seq, attempt, error, delayMs }),
      // Row-level security refuses COPY, not INSERT.
      again: (batch, error) => {
        const refused = error instanceof DatabaseError && error.sqlState === FEATURE_NOT_SUPPORTED;
        if (!refused || method !== 'auto' || batch.method === 'insert') return false;
        target.method = 'insert';
        return true;
      },
    });
  }

  batch(): FillingBatch<T> {
    const { queue, worker, check, delaySeconds } = this.#options;
    const rows = this.#spare.pop() ?? new Rows(rowFormat(queue.id, worker.id, this.#withVt, check));
    const delayOf =
      typeof delaySeconds === 'number'
        ? () => delaySeconds
        : (item: T, index: number) => checkDelay(delaySeconds(item), index);
    return {
      get count() {
        return rows.count;
      },
      get bytes() {
        return rows.bytes;
      },
      append: (item, payload, index) => rows.append(payload, index, delayOf(item, index)),
      send: () => this.#send(rows),
    };
  }

  async close(): Promise<IngestProgress> {
    const { db } = this.#options;
    const settled = this.#inDoubt ? await this.#settle(this.#inDoubt) : this.#committed;
    // A row that stays is swept when its worker is dead.
    if (this.#name) await sql.deleteStream(db.urgent, this.#name).catch(() => undefined);
    const committed = settled ?? this.#committed;
    return {
      committed,
      position: String(committed),
      ...(settled === undefined && { inDoubt: true as const }),
    };
  }

  /**
   * How many rows are in when the last COMMIT was not answered: the ledger knows, once nothing can move it any more.
   * @returns nothing when the server stays away
   */
  async #settle(inDoubt: Transaction): Promise<number | undefined> {
    const { db } = this.#options;
    const { id, epoch } = this.#key as StreamKey;
    for (const deadline = performance.now() + SETTLE_TIMEOUT_MS; performance.now() < deadline;) {
      await endHalfDead(db, inDoubt);
      try {
        return Number((await sql.fenceStream(db.urgent, id, epoch)) ?? this.#committed);
      } catch (error) {
        if (!(error instanceof SluiceError && error.transient)) break;
        await sleep(SETTLE_RETRY_MS);
      }
    }
    return undefined;
  }

  async #send(rows: Rows): Promise<CommittedBatch> {
    this.#position += rows.count;
    const batch = new Batch(rows, String(this.#position));
    try {
      const { pace } = this.#options;
      this.#paced = this.#paced.then(() => pace(rows.count, this.#signal as AbortSignal));
      await this.#paced;
      const seq = await (this.#sequence as Sequence<Batch>).send(batch);
      this.#committed += rows.count;
      this.#options.onCommit();
      const { method, msByPhase: ms } = batch;
      return { seq, rows: rows.count, bytes: rows.bytes, method, ms };
    } catch (error) {
      if (batch.commitSent) this.#inDoubt = batch.transaction;
      throw error;
    } finally {
      rows.clear();
      this.#spare.push(rows);
    }
  }
}
