import type { Db, Session } from '../db.js';
import { orAbort } from '../deferred.js';
import { isAnswer } from '../errors/answer.js';
import {
  DatabaseError,
  SluiceError,
  StreamFencedError,
  StreamNotFoundError,
  StreamRegressedError,
  type WorkerFencedError,
} from '../errors/index.js';
import * as sql from '../sql/batches.js';
import { takeKeys } from '../sql/dedupe.js';
import { RAISED } from '../sql/statement.js';
import { confirmStream, type LedgerRow } from '../sql/streams.js';
import type { Incarnation } from '../sql/workers.js';
import { type Cut, onClient } from '../on-client.js';
import type { Queue } from '../types.js';
import type { Batch } from './batch.js';
import { translateGone } from './gone.js';
import { jsonbArrayOf } from './jsonb-array.js';
import type { Rejects } from './rejects.js';
import type { Rows } from './rows.js';
import type { Turn } from './sequence.js';

export type FlushMethod = 'copy' | 'insert';

export interface FlushTarget {
  db: Db;
  queue: Queue;
  worker: Incarnation;
  fenced: () => WorkerFencedError;
  stream: sql.StreamKey & { name: string };
  /** How batches are sent from now on. */
  method: FlushMethod;
  batchTimeoutMs: number;
  /** For how long a key keeps others out; undefined where rows are not deduplicated. */
  dedupeWindowSeconds: number | undefined;
  rejects: Rejects | undefined;
  /** Rows of the stream that are committed, in earlier runs too. Batches commit in order, so it is exact. */
  committedRows: number;
}

/** How long a retry waits for the locks of a half-dead predecessor. */
const RETRY_LOCK_TIMEOUT_MS = 5_000;

/**
 * Sends one batch in one transaction: begin in turn, transfer beside the others, pin, advance the ledger and commit in
 * turn. Resolves when the rows are committed for certain; any rejection means that they are not, or that only the
 * ledger knows (`batch.commitSent`). The next attempt then simply does the same again: the ledger refuses its commit if
 * an earlier one was successful.
 */
export async function flush(target: FlushTarget, batch: Batch, turn: Turn): Promise<void> {
  await turn.toBegin();
  await report(target.rejects, batch, turn);
  const clock = stopwatch(batch.msByPhase);
  if (batch.transaction) await orAbort(endHalfDead(target.db, batch.transaction), turn.signal);
  const limits = { what: 'sending a batch', ms: target.batchTimeoutMs, signal: turn.signal };
  try {
    await onClient(target.db, limits, (session, cut) => attempt(target, batch, turn, session, cut, clock));
  } catch (error) {
    throw translateGone(error, target.queue.name, target.fenced);
  }
}

/** Before the transaction opens, since the callback may take its time. */
async function report(rejects: Rejects | undefined, batch: Batch, turn: Turn): Promise<void> {
  if (!rejects || batch.rejects.length === 0) return;
  // What is rejected of the batches before comes first, and counts first; while they are on their way there may be more.
  if (rejects.hasNews(batch) || rejects.tooMany(batch)) await turn.toCommit();
  const tooMany = rejects.tooMany(batch);
  if (tooMany) throw tooMany;
  await orAbort(rejects.report(batch), turn.signal);
}

/** Ends a backend that a client which vanished has left in its transaction, holding locks. A failure only costs time. */
export async function endHalfDead(db: Db, transaction: sql.Transaction): Promise<void> {
  await sql.endTransaction(db.urgent, transaction).catch(() => undefined);
}

async function attempt(
  target: FlushTarget,
  batch: Batch,
  turn: Turn,
  session: Session,
  cut: Cut,
  clock: Stopwatch,
): Promise<void> {
  const { queue, worker, stream } = target;
  const lockTimeoutMs = batch.transaction && RETRY_LOCK_TIMEOUT_MS;
  batch.transaction = await sql.beginBatch(session, queue.id, worker, lockTimeoutMs);
  turn.begun();
  clock('begin');
  if (batch.commitSent) {
    // Sent again, the rows of a batch that is in might be refused for being there already.
    const ledger = await confirmStream(session, stream.id);
    if (isCommitted(target, ledger, turn.seq)) {
      cut.committing();
      await session.commit();
      resolved(target, batch, ledger);
      return;
    }
  }

  batch.method = target.method;
  const rows = await withoutDuplicates(target, batch, session);
  await transfer(target, rows, batch, session);
  await transferRejects(target, batch, session);
  clock('transfer');

  await cut.idle(turn.toCommit());
  clock('turn');

  cut.committing();
  const { commitSent } = batch;
  batch.commitSent = true;
  try {
    const step = { seq: turn.seq, position: batch.position, rows: rows.count };
    await sql.advanceAndCommit(session, queue.id, worker, stream, step);
    committed(target, batch, target.committedRows + rows.count);
  } catch (error) {
    // Refused it is not in; what an earlier attempt left unanswered may be.
    if (error instanceof SluiceError && isAnswer(error)) batch.commitSent = commitSent;
    if (!(error instanceof DatabaseError && error.sqlState === RAISED.streamMoved)) throw error;
    await session.script('rollback');
    const ledger = await confirmStream(session, stream.id);
    if (!isCommitted(target, ledger, turn.seq)) throw error;
    resolved(target, batch, ledger);
  }
  clock('commit');
}

function committed(target: FlushTarget, batch: Batch, rows: number): void {
  batch.committedRows = rows - target.committedRows;
  target.committedRows = rows;
}

function resolved(target: FlushTarget, batch: Batch, { rows }: LedgerRow): void {
  batch.resolved = true;
  committed(target, batch, rows);
}

/**
 * What of the batch is new, of several with one key the first: its keys are taken here, and given back with the
 * transaction if that fails. Not sooner, since a row that the server refuses must not keep its like out.
 */
async function withoutDuplicates(
  { queue, dedupeWindowSeconds }: FlushTarget,
  { rows }: Batch,
  session: Session,
): Promise<Rows> {
  if (dedupeWindowSeconds === undefined) return rows;
  const keys = new Set(rows.keys.filter((key) => key !== undefined));
  if (keys.size === 0) return rows;
  const free = await takeKeys(session, queue.id, [...keys], dedupeWindowSeconds);
  const isNew = (key: string | undefined) => key === undefined || free.delete(key);
  const fresh = rows.keys.flatMap((key, row) => (isNew(key) ? [row] : []));
  return fresh.length === rows.count ? rows : rows.pick(fresh);
}

async function transfer(
  { queue, worker }: FlushTarget,
  rows: Rows,
  { method, transaction }: Batch,
  session: Session,
): Promise<void> {
  const { count, withVt } = rows;
  if (count === 0) return;
  if (method === 'insert') {
    const delays = withVt ? rows.delays : null;
    await sql.insertMessages(session, queue.id, worker.id, rows.payloadArray(), delays, count);
  } else {
    rows.stampVt(BigInt(transaction?.startedAtMicros ?? 0));
    await sql.copyMessages(session, withVt, rows.copyChunks(), count);
  }
}

async function transferRejects(
  { worker, rejects, fenced }: FlushTarget,
  batch: Batch,
  session: Session,
): Promise<void> {
  const queue = rejects?.queue;
  if (!queue || batch.rejects.length === 0) return;
  const payloads = jsonbArrayOf(rejects.messages(batch));
  const { length } = batch.rejects;
  try {
    await sql.pinQueue(session, queue.id, worker);
    await sql.insertMessages(session, queue.id, worker.id, payloads, null, length);
  } catch (error) {
    throw translateGone(error, queue.name, fenced);
  }
}

/** What the ledger's row means for batch `seq`, whose predecessors are committed. */
function isCommitted(target: FlushTarget, row: LedgerRow | undefined, seq: number): row is LedgerRow {
  const { name, epoch } = target.stream;
  if (!row) throw new StreamNotFoundError(name);
  if (row.epoch > epoch) throw new StreamFencedError(name);
  // An earlier epoch: even the start of this run is lost.
  if (row.epoch < epoch || row.seq < seq - 1) {
    target.committedRows = row.rows;
    throw new StreamRegressedError(name, row.position);
  }
  return row.seq >= seq;
}

type Stopwatch = (phase: keyof Batch['msByPhase']) => void;

function stopwatch(msByPhase: Batch['msByPhase']): Stopwatch {
  let last = performance.now();
  return (phase) => {
    const now = performance.now();
    msByPhase[phase] += now - last;
    last = now;
  };
}
