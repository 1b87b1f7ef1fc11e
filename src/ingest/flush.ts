import { type Db, type Session, withDeadline } from '../db.js';
import {
  DatabaseError,
  QueueNotFoundError,
  StreamFencedError,
  StreamNotFoundError,
  StreamRegressedError,
  TimeoutError,
  WorkerFencedError,
} from '../errors.js';
import * as sql from '../sql/batches.js';
import { RAISED } from '../sql/statement.js';
import { type LedgerRow, lockStream } from '../sql/streams.js';
import type { Incarnation } from '../sql/workers.js';
import type { Queue } from '../types.js';
import type { Rows } from './rows.js';
import type { Turn } from './sequence.js';

export type FlushMethod = 'copy' | 'insert';

/** One batch on its way: its rows, where it ends in the source, and what is known of its transactions. */
export class Batch {
  /** The last transaction that was opened for it. */
  transaction: sql.Transaction | undefined;
  /** From the moment its COMMIT is on the wire nobody but the ledger knows whether it is in. */
  commitSent = false;
  method: FlushMethod = 'copy';
  readonly msByPhase = { begin: 0, transfer: 0, turn: 0, commit: 0 };
  constructor(
    readonly rows: Rows,
    /** Source position of the last row. */
    readonly position: string,
  ) {}
}

export interface FlushTarget {
  db: Db;
  queue: Queue;
  workerName: string;
  worker: Incarnation;
  stream: sql.StreamKey & { name: string };
  /** Whether rows carry `vt`. */
  withVt: boolean;
  /** How a batch of so many rows is sent. */
  method(rows: number): FlushMethod;
  batchTimeoutMs: number;
}

/** A batch's transaction may be idle while it waits for its turn, but a client that vanished must not hold it for long. */
const IDLE_IN_TRANSACTION_MS = 60_000;
/** How long a retry waits for the locks of a half-dead predecessor. */
const RETRY_LOCK_TIMEOUT_MS = 5_000;

/**
 * Sends one batch in one transaction: begin and pin in turn, transfer beside the others, advance the ledger and commit
 * in turn. Resolves when the rows are committed for certain; any rejection means that they are not, or that only the
 * ledger knows (`batch.commitSent`), which the next attempt asks first.
 */
export async function flush(target: FlushTarget, batch: Batch, turn: Turn): Promise<void> {
  await turn.toBegin();
  if (batch.transaction) await endHalfDead(target.db, batch.transaction);
  const session = await target.db.session(turn.signal);
  const watch = new Watch(session, turn.signal, target.batchTimeoutMs);
  try {
    if (await attempt(target, batch, turn, session, watch)) session.release();
    else await session.rollback();
  } catch (error) {
    // A COPY that failed leaves its client in no state to be trusted.
    if (watch.waiting) await session.rollback();
    else session.discard();
    throw watch.timedOut ?? translate(target, error);
  } finally {
    watch.stop();
  }
}

/** @returns whether this transaction was committed; false when an earlier one had been, and this one is to be rolled back */
async function attempt(
  target: FlushTarget,
  batch: Batch,
  turn: Turn,
  session: Session,
  watch: Watch,
): Promise<boolean> {
  const { queue, worker, stream } = target;
  const clock = stopwatch(batch.msByPhase);
  const lockTimeoutMs = batch.transaction ? RETRY_LOCK_TIMEOUT_MS : 0;
  batch.transaction = await sql.beginBatch(session, queue.id, worker, IDLE_IN_TRANSACTION_MS, lockTimeoutMs);
  if (batch.commitSent && isCommitted(target, await lockStream(session, stream.id), turn.seq)) return false;
  turn.begun();
  clock('begin');

  batch.method = target.method(batch.rows.count);
  await transfer(target, batch, session, batch.transaction);
  clock('transfer');

  await watch.idle(turn.toCommit());
  clock('turn');

  watch.committing = true;
  batch.commitSent = true;
  try {
    const tag = await sql.advanceAndCommit(session, stream, turn.seq, batch.position);
    if (tag !== 'COMMIT') throw new DatabaseError(`COMMIT was answered with ${String(tag)}`, '40000');
  } catch (error) {
    if (!(error instanceof DatabaseError && error.sqlState === RAISED.streamMoved)) throw error;
    await session.script('rollback');
    if (isCommitted(target, await lockStream(session, stream.id), turn.seq)) return false;
    throw error;
  }
  clock('commit');
  return true;
}

async function transfer(
  { queue, worker, withVt }: FlushTarget,
  { rows, method }: Batch,
  session: Session,
  { startedAtBinary }: sql.Transaction,
): Promise<void> {
  if (method === 'insert') {
    await sql.insertMessages(session, queue.id, worker.id, rows.payloadArray(), withVt ? rows.delays : null);
    return;
  }
  const copied = await sql.copyMessages(session, withVt, rows.copyChunks(startedAtBinary));
  if (copied !== rows.count) throw new Error(`COPY took ${copied} rows of ${rows.count}`);
}

/** What the ledger's row means for batch `seq`, whose predecessors are committed. */
function isCommitted({ stream }: FlushTarget, row: LedgerRow | undefined, seq: number): boolean {
  if (!row) throw new StreamNotFoundError(stream.name);
  if (row.epoch !== stream.epoch) throw new StreamFencedError(stream.name);
  if (row.seq < seq - 1) throw new StreamRegressedError(stream.name, row.position);
  return row.seq >= seq;
}

/** A client that vanished can leave its backend in the middle of the transaction, holding locks. A failure here only costs time. */
async function endHalfDead(db: Db, transaction: sql.Transaction): Promise<void> {
  await withDeadline('ending a half-dead backend', 5_000, sql.endTransaction(db.urgent, transaction)).catch(
    () => undefined,
  );
}

function translate(target: FlushTarget, error: unknown): unknown {
  if (!(error instanceof DatabaseError)) return error;
  if (error.sqlState === RAISED.queueGone) return new QueueNotFoundError(target.queue.name);
  if (error.sqlState === RAISED.workerGone) return new WorkerFencedError(target.workerName);
  return error;
}

/**
 * Cuts an attempt's socket at its deadline, or when it is aborted in the middle of a statement. An abort finds it
 * either waiting for its turn, which ends by itself, or committing, which is let finish: its outcome is worth knowing.
 */
class Watch {
  /** Nothing is on the wire: the session can be rolled back politely. */
  waiting = false;
  committing = false;
  timedOut: TimeoutError | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly #onAbort = () => {
    if (this.committing) this.#arm(COMMIT_AFTER_ABORT_MS);
    else if (!this.waiting) this.session.discard();
  };

  constructor(
    private readonly session: Session,
    private readonly signal: AbortSignal,
    private readonly ms: number,
  ) {
    this.#arm(ms);
    signal.addEventListener('abort', this.#onAbort, { once: true });
    if (signal.aborted) this.#onAbort();
  }

  /** Waits for something that is not this batch's doing: the deadline stands still. */
  async idle(turn: Promise<void>): Promise<void> {
    clearTimeout(this.#timer);
    this.waiting = true;
    await turn;
    this.waiting = false;
    this.#arm(this.ms);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.signal.removeEventListener('abort', this.#onAbort);
  }

  #arm(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.timedOut = new TimeoutError('sending a batch', ms);
      this.session.discard();
    }, ms);
  }
}

const COMMIT_AFTER_ABORT_MS = 5_000;

function stopwatch<P extends string>(msByPhase: Record<P, number>): (phase: P) => void {
  let last = performance.now();
  return (phase) => {
    const now = performance.now();
    msByPhase[phase] += now - last;
    last = now;
  };
}
