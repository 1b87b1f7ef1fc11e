import { randomUUID } from 'node:crypto';
import type { CommittedBatch, FillingBatch, Sink, SinkEvents, StreamStart } from '../../streams/sink.js';
import { sleep } from '../backoff.js';
import type { Db, Session } from '../db.js';
import {
  DatabaseError,
  type IngestProgress,
  InvalidOptionError,
  QueueNotFoundError,
  SluiceError,
  StreamRegressedError,
  type WorkerFencedError,
} from '../errors/index.js';
import { onClient } from '../on-client.js';
import { retrying, type RetryOptions } from '../retrying.js';
import type { StreamKey, Transaction } from '../sql/batches.js';
import * as sql from '../sql/streams.js';
import type { Incarnation } from '../sql/workers.js';
import type { Queue } from '../types.js';
import type { PayloadCheck } from '../validation.js';
import type { Batch } from './batch.js';
import type { Backlog } from './backlog.js';
import { isFaultOfTheData } from './find-refused.js';
import { endHalfDead, flush, type FlushMethod, type FlushTarget } from './flush.js';
import { Intake, type IntakeOptions } from './intake.js';
import { isolate } from './isolate.js';
import { OnRejectError, type Rejects } from './rejects.js';
import type { KeyPurge } from './key-purge.js';
import { ANONYMOUS, countOf, type ResumeOptions } from './resume.js';
import { rowFormat, Rows } from './rows.js';
import { Sequence } from './sequence.js';

export interface StreamSinkOptions<T> extends IntakeOptions<T> {
  db: Db;
  queue: Queue;
  worker: Incarnation;
  fenced: () => WorkerFencedError;
  /** Batches in flight, from 1 to 4. */
  concurrency: number;
  /** Resolves when so many rows may be sent. */
  pace: (rows: number, signal: AbortSignal) => Promise<void>;
  /** Called after each commit. */
  onCommit: () => void;
  /** What every payload must be like. */
  check: PayloadCheck;
  /** Makes the payload that is stored of an item, or a promise of it; throws or rejects to refuse the item. */
  validate?: ((payload: unknown, index: number) => unknown) | undefined;
  resume: ResumeOptions<T> | undefined;
  /** What becomes of items that cannot be stored; undefined: they end the stream. */
  rejects: Rejects | undefined;
  dedupeWindowSeconds: number | undefined;
  keyPurge: KeyPurge;
  backlog: Backlog | undefined;
  method: FlushMethod | 'auto';
  retry: RetryOptions;
  batchTimeoutMs: number;
  turnMs: number;
}

const FEATURE_NOT_SUPPORTED = '0A000';
const FOREIGN_KEY_VIOLATION = '23503';
/** How long the server waits for whoever holds the ledger's row when the stream opens, before it is asked again. */
const LOCK_TIMEOUT_MS = 5_000;
/** Longest time to find out at the end whether the last batch is in. */
const SETTLE_TIMEOUT_MS = 10_000;
const SETTLE_RETRY_MS = 100;

/** Sends a stream's batches into one queue, in order and exactly once: the ledger row, the sequence, the buffers. */
export class StreamSink<T> implements Sink<T> {
  readonly validate?: (item: T, index: number) => unknown;
  readonly #options: StreamSinkOptions<T>;
  readonly #name: string;
  readonly #spare: Rows[] = [];
  #run: sql.StreamRun | undefined;
  #target: FlushTarget | undefined;
  #sequence: Sequence<Batch> | undefined;
  #signal: AbortSignal | undefined;
  #tell: SinkEvents | undefined;
  /** Behind the last item of the last committed batch. */
  #position = '';
  /** The last transaction of the batch whose COMMIT was not answered before the stream failed. There is at most one. */
  #inDoubt: Transaction | undefined;

  constructor(options: StreamSinkOptions<T>) {
    this.#options = options;
    this.#name = options.resume?.name ?? `${ANONYMOUS}${randomUUID()}`;
    if (options.validate) this.validate = options.validate;
  }

  async open(signal: AbortSignal, tell: SinkEvents): Promise<StreamStart> {
    const { db, queue, worker, fenced, batchTimeoutMs, retry, turnMs, method, rejects, concurrency } =
      this.#options;
    this.#signal = signal;
    this.#tell = tell;
    const run = await this.#untilOpen(signal);
    this.#run = run;
    this.#position = run.position;
    const index = this.#counts ? countOf(run.position) : 0;
    const target: FlushTarget = {
      db,
      queue,
      worker,
      fenced,
      stream: { ...run, name: this.#name },
      batchTimeoutMs,
      // As fast as INSERT for small batches and faster for big ones: benchmarks/README.md.
      method: method === 'auto' ? 'copy' : method,
      dedupeWindowSeconds: this.#options.dedupeWindowSeconds,
      rejects,
      committedRows: run.rows,
    };
    this.#target = target;
    this.#sequence = new Sequence<Batch>((batch, turn) => flush(target, batch, turn), {
      places: concurrency,
      pace: (batch) => this.#pace(batch.rows.count, signal),
      signal,
      retry,
      turnMs,
      onRetry: (seq, attempt, error, delayMs) => tell.onRetry({ seq, attempt, error, delayMs }),
      again: (batch, error) => this.#inAnotherWay(target, batch, error),
    });
    return { position: run.position, index };
  }

  place(): Promise<void> {
    return (this.#sequence as Sequence<Batch>).place();
  }

  batch(): FillingBatch<T> {
    const { queue, worker, check, delaySeconds } = this.#options;
    const rows = this.#spare.pop() ?? new Rows(rowFormat(queue.id, worker.id, delaySeconds !== 0, check));
    return new Intake(this.#options, rows, (batch) => this.#send(batch));
  }

  async close(): Promise<IngestProgress> {
    const { db, resume, rejects } = this.#options;
    await rejects?.quiet();
    const settled = this.#inDoubt ? await this.#settle(this.#inDoubt) : this.#soFar;
    // A row that stays is swept when its worker is dead. In doubt it is out of reach, or locked.
    if (!resume && settled) await sql.forgetStream(db.urgent, this.#name).catch(() => undefined);
    const { rows, position } = settled ?? this.#soFar;
    return {
      committed: Math.max(0, rows - (this.#run?.rows ?? 0)), // the server may have lost rows of earlier runs too
      position: position === '' && this.#counts ? '0' : position,
      ...(settled === undefined && { inDoubt: true as const }),
    };
  }

  /** Whether positions are how many items the source has given. */
  get #counts(): boolean {
    return this.#options.resume?.position === undefined;
  }

  get #soFar(): Pick<sql.LedgerRow, 'rows' | 'position'> {
    return { rows: this.#target?.committedRows ?? 0, position: this.#position };
  }

  async #untilOpen(signal: AbortSignal): Promise<sql.StreamRun> {
    const { db, queue, worker, fenced, batchTimeoutMs, resume, retry, rejects } = this.#options;
    const open = async (session: Session, withinMs: number) => {
      const lockTimeoutMs = Math.ceil(Math.min(LOCK_TIMEOUT_MS, 0.9 * withinMs));
      // First, since to open a stream that is resumed is to fence who runs it.
      await rejects?.open(session, db, signal);
      if (!resume) return sql.openStream(session, this.#name, queue.id, worker.id, lockTimeoutMs);
      const run = await sql.resumeStream(session, this.#name, queue.id, lockTimeoutMs);
      if (!run) throw new InvalidOptionError('resume.name', 'a stream of this queue', `one of another queue`);
      return run;
    };
    return retrying({ ...retry, withinMs: batchTimeoutMs, signal }, (ms) =>
      onClient(db, { what: 'opening the stream', ms, signal }, (session) => open(session, ms)),
    ).catch((error: unknown) => {
      if (!(error instanceof DatabaseError && error.sqlState === FOREIGN_KEY_VIOLATION)) throw error;
      throw error.constraint?.includes('worker') ? fenced() : new QueueNotFoundError(queue.name);
    });
  }

  /** Row-level security refuses COPY, not INSERT; and what the server refuses of a batch is no reason to lose the rest. */
  async #inAnotherWay(target: FlushTarget, batch: Batch, error: unknown): Promise<boolean> {
    const { method, rejects, db, queue, worker, retry } = this.#options;
    if (error instanceof OnRejectError) throw error.cause;
    if (error instanceof DatabaseError && error.sqlState === FEATURE_NOT_SUPPORTED) {
      if (method !== 'auto' || batch.method === 'insert') return false;
      target.method = 'insert';
      return true;
    }
    if (!isFaultOfTheData(error)) return false;
    const isolation = { db, queueId: queue.id, worker, retry, signal: this.#signal as AbortSignal };
    const [first] = await isolate(isolation, batch, rejects !== undefined);
    if (first && !rejects) throw first;
    return first !== undefined;
  }

  /**
   * How far the run came when the last COMMIT was not answered: the ledger knows, once nothing can move it any more.
   * @returns nothing when the server stays away, when the row is gone, or when another run has moved it
   */
  async #settle(inDoubt: Transaction): Promise<Pick<sql.LedgerRow, 'rows' | 'position'> | undefined> {
    const { db } = this.#options;
    const { id, epoch } = this.#run as StreamKey;
    for (const deadline = performance.now() + SETTLE_TIMEOUT_MS; performance.now() < deadline;) {
      await endHalfDead(db, inDoubt);
      try {
        return await sql.fenceStream(db.urgent, id, epoch);
      } catch (error) {
        if (!(error instanceof SluiceError && error.transient)) break;
        await sleep(SETTLE_RETRY_MS);
      }
    }
    return undefined;
  }

  /** Holds a batch back while the queue is full, the producer suspended or its limit reached. */
  async #pace(rows: number, signal: AbortSignal): Promise<void> {
    const { backlog, pace } = this.#options;
    await backlog?.admit(rows, signal, (event) => this.#tell?.onBacklog(event));
    await pace(rows, signal);
  }

  async #send(batch: Batch): Promise<CommittedBatch> {
    const buffer = batch.rows;
    try {
      const { rejects, backlog, keyPurge, dedupeWindowSeconds } = this.#options;
      rejects?.sent(batch);
      const seq = await (this.#sequence as Sequence<Batch>).send(batch);
      this.#position = batch.position;
      backlog?.arrived(buffer.count);
      this.#options.onCommit();
      rejects?.committed(batch);
      if (dedupeWindowSeconds !== undefined) keyPurge.remind();
      const { method, msByPhase: ms, committedRows: rows, items, resolved, position } = batch;
      const rejected = batch.rejects.length;
      const { bytes } = batch.rows;
      const duplicates = items - rejected - rows;
      return { seq, rows, rejected, duplicates, bytes, method, resolved, position, ms };
    } catch (error) {
      if (error instanceof StreamRegressedError) this.#position = error.position;
      else if (batch.commitSent) this.#inDoubt = batch.transaction;
      throw error;
    } finally {
      buffer.clear();
      this.#spare.push(buffer);
    }
  }
}
