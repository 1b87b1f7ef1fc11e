import { randomUUID } from 'node:crypto';
import type { CommittedBatch, FillingBatch, RetryEvent, Sink } from '../../streams/producer-stream.js';
import * as check from '../check.js';
import { type Db, withDeadline } from '../db.js';
import { orAbort } from '../deferred.js';
import { DatabaseError, type IngestProgress, QueueNotFoundError } from '../errors.js';
import * as sql from '../sql/streams.js';
import type { Incarnation } from '../sql/workers.js';
import type { Queue } from '../types.js';
import { Batch, flush, type FlushMethod, type FlushTarget } from './flush.js';
import { rowFormat, Rows } from './rows.js';
import { type RetryOptions, Sequence } from './sequence.js';

export interface StreamSinkOptions<T> {
  db: Db;
  queue: Queue;
  workerName: string;
  worker: Incarnation;
  /** Called after each commit. */
  onCommit: () => void;
  maxPayloadBytes: number;
  delaySeconds: number | ((item: T) => number);
  method: FlushMethod | 'auto';
  retry: RetryOptions;
  batchTimeoutMs: number;
  turnMs: number;
}

/**
 * From so many rows on, COPY beats the array INSERT; see benchmarks/README.md (method crossover).
 */
const COPY_FROM_ROWS = 100;
/** pgqrs' delays are unsigned 32-bit seconds. */
const MAX_DELAY_SECONDS = 4_294_967_295;
const FEATURE_NOT_SUPPORTED = '0A000';
const FOREIGN_KEY_VIOLATION = '23503';
const CLOSE_TIMEOUT_MS = 5_000;

/** Sends a stream's batches into one queue, in order and exactly once: the ledger row, the sequence, the buffers. */
export class StreamSink<T> implements Sink<T> {
  readonly #options: StreamSinkOptions<T>;
  readonly #withVt: boolean;
  readonly #spare: Rows[] = [];
  #target: FlushTarget | undefined;
  #sequence: Sequence<Batch> | undefined;
  /** Items in the batches that were handed over; the position of the last of them. */
  #position = 0;
  #committed = 0;

  constructor(options: StreamSinkOptions<T>) {
    this.#options = options;
    this.#withVt = options.delaySeconds !== 0;
  }

  async open(signal: AbortSignal, onRetry: (event: RetryEvent) => void): Promise<void> {
    const { db, queue, workerName, worker, batchTimeoutMs, retry, turnMs } = this.#options;
    const name = `anonymous-${randomUUID()}`;
    const opening = sql.openStream(db, name, queue.id, worker.id);
    const key = await orAbort(opening, signal).catch((error: unknown) => {
      // Too late to be used: leave no row behind.
      opening.then((late) => sql.closeStream(db, late.id, late.epoch)).catch(() => undefined);
      const gone = error instanceof DatabaseError && error.sqlState === FOREIGN_KEY_VIOLATION;
      throw gone ? new QueueNotFoundError(queue.name) : error;
    });
    let copyRefused = false;
    const target: FlushTarget = {
      db,
      queue,
      workerName,
      worker,
      stream: { ...key, name },
      withVt: this.#withVt,
      batchTimeoutMs,
      method: (rows) => {
        if (this.#options.method !== 'auto') return this.#options.method;
        return copyRefused || rows < COPY_FROM_ROWS ? 'insert' : 'copy';
      },
    };
    this.#target = target;
    this.#sequence = new Sequence<Batch>((batch, turn) => flush(target, batch, turn), {
      signal,
      retry,
      turnMs,
      onRetry: (seq, attempt, error, delayMs) => onRetry({ seq, attempt, error, delayMs }),
      // Row-level security refuses COPY, not INSERT.
      again: (error) => {
        const refused = error instanceof DatabaseError && error.sqlState === FEATURE_NOT_SUPPORTED;
        if (!refused || copyRefused || this.#options.method !== 'auto') return false;
        copyRefused = true;
        return true;
      },
    });
  }

  batch(): FillingBatch<T> {
    const { queue, worker, maxPayloadBytes, delaySeconds } = this.#options;
    const rows = this.#spare.pop() ?? new Rows(rowFormat(queue.id, worker.id, this.#withVt, maxPayloadBytes));
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
      append: (item, index) => rows.append(item, index, delayOf(item, index)),
      send: () => this.#send(rows),
    };
  }

  async close(): Promise<IngestProgress> {
    const known = { committed: this.#committed, position: String(this.#committed) };
    if (!this.#target) return known;
    const { id, epoch } = this.#target.stream;
    try {
      const row = await withDeadline(
        'closing the stream',
        CLOSE_TIMEOUT_MS,
        sql.closeStream(this.#target.db.urgent, id, epoch),
      );
      // The ledger knows even of a COMMIT whose answer was lost.
      return row ? { committed: Number(row.position), position: row.position } : known;
    } catch {
      // The row is swept when its worker is dead.
      return known;
    }
  }

  async #send(rows: Rows): Promise<CommittedBatch> {
    this.#position += rows.count;
    const batch = new Batch(rows, String(this.#position));
    const seq = await (this.#sequence as Sequence<Batch>).send(batch);
    this.#committed += rows.count;
    this.#options.onCommit();
    const committed = { seq, rows: rows.count, bytes: rows.bytes, method: batch.method, ms: batch.msByPhase };
    rows.clear();
    this.#spare.push(rows);
    return committed;
  }
}

/** Checks an option or one item's delay. */
export function checkDelay(seconds: unknown, index?: number): number {
  const field = index === undefined ? 'delaySeconds' : `delaySeconds of the item at index ${index}`;
  return check.integer(field, seconds, { min: 0, max: MAX_DELAY_SECONDS });
}
