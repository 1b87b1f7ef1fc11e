import type { Db, Session } from '../db.js';
import { orAbort } from '../deferred.js';
import {
  DatabaseError,
  StreamFencedError,
  StreamNotFoundError,
  StreamRegressedError,
  type WorkerFencedError,
} from '../errors/index.js';
import * as sql from '../sql/batches.js';
import { RAISED } from '../sql/statement.js';
import { type LedgerRow, selectStream } from '../sql/streams.js';
import type { Incarnation } from '../sql/workers.js';
import type { Queue } from '../types.js';
import { translateGone } from './gone.js';
import type { Rows } from './rows.js';
import type { Turn } from './sequence.js';
import { type Watch, watched } from './watch.js';

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
  worker: Incarnation;
  fenced: () => WorkerFencedError;
  stream: sql.StreamKey & { name: string };
  /** Whether rows carry `vt`. */
  withVt: boolean;
  /** How batches are sent from now on. */
  method: FlushMethod;
  batchTimeoutMs: number;
}

/** A batch's transaction may be idle while it waits for its turn, but a client that vanished must not hold it for long. */
const IDLE_IN_TRANSACTION_MS = 60_000;
/** How long a retry waits for the locks of a half-dead predecessor. */
const RETRY_LOCK_TIMEOUT_MS = 5_000;

/**
 * Sends one batch in one transaction: begin and pin in turn, transfer beside the others, advance the ledger and commit
 * in turn. Resolves when the rows are committed for certain; any rejection means that they are not, or that only the
 * ledger knows (`batch.commitSent`). The next attempt then simply does the same again: the ledger refuses its commit if
 * an earlier one was successful.
 */
export async function flush(target: FlushTarget, batch: Batch, turn: Turn): Promise<void> {
  await turn.toBegin();
  const clock = stopwatch(batch.msByPhase);
  if (batch.transaction) await orAbort(endHalfDead(target.db, batch.transaction), turn.signal);
  const deadline = { what: 'sending a batch', ms: target.batchTimeoutMs };
  try {
    await watched(target.db, turn.signal, deadline, (session, watch) =>
      attempt(target, batch, turn, session, watch, clock),
    );
  } catch (error) {
    throw translateGone(error, target.queue.name, target.fenced);
  }
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
  watch: Watch,
  clock: Stopwatch,
): Promise<void> {
  const { queue, worker, stream } = target;
  const lockTimeoutMs = batch.transaction ? RETRY_LOCK_TIMEOUT_MS : 0;
  batch.transaction = await sql.beginBatch(session, queue.id, worker, IDLE_IN_TRANSACTION_MS, lockTimeoutMs);
  turn.begun();
  clock('begin');

  batch.method = target.method;
  await transfer(target, batch, session, batch.transaction);
  clock('transfer');

  await watch.idle(turn.toCommit());
  clock('turn');

  watch.committing();
  batch.commitSent = true;
  try {
    await sql.advanceAndCommit(session, stream, turn.seq, batch.position, queue.id, worker);
  } catch (error) {
    if (!(error instanceof DatabaseError && error.sqlState === RAISED.streamMoved)) throw error;
    // It waited for whoever held the ledger's row, so what the row says now is final.
    await session.script('rollback');
    if (!isCommitted(target, await selectStream(session, stream.id), turn.seq)) throw error;
  }
  clock('commit');
}

async function transfer(
  { queue, worker, withVt }: FlushTarget,
  { rows, method }: Batch,
  session: Session,
  { startedAtMicros }: sql.Transaction,
): Promise<void> {
  if (method === 'copy') await sql.copyMessages(session, withVt, rows.copyChunks(BigInt(startedAtMicros)));
  else
    await sql.insertMessages(session, queue.id, worker.id, rows.payloadArray(), withVt ? rows.delays : null);
}

/** What the ledger's row means for batch `seq`, whose predecessors are committed. */
function isCommitted({ stream }: FlushTarget, row: LedgerRow | undefined, seq: number): boolean {
  if (!row) throw new StreamNotFoundError(stream.name);
  if (row.epoch !== stream.epoch) throw new StreamFencedError(stream.name);
  if (row.seq < seq - 1) throw new StreamRegressedError(stream.name, row.position);
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
