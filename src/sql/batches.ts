import { literal, type Queryable, type Session } from '../db.js';
import type { Id } from '../types.js';
import { insertRows } from './enqueue.js';
import { statement } from './statement.js';
import type { Incarnation } from './workers.js';

/** One batch's transaction on the server, named exactly: a process id alone may be somebody else's by now. */
export interface Transaction {
  pid: number;
  /** `now()` of the transaction, in microseconds since 1970: exact, and the same in every TimeZone and DateStyle. */
  startedAtMicros: string;
}

/**
 * Opens a batch's transaction and pins its queue and worker, in one message. Values are literals because the simple
 * protocol, which alone takes several statements at once, has no parameters.
 * @param lockTimeoutMs for a retry, which may meet locks of a half-dead predecessor; 0 = none
 */
export async function beginBatch(
  session: Session,
  queueId: Id,
  worker: Incarnation,
  idleTimeoutMs: number,
  lockTimeoutMs: number,
): Promise<Transaction> {
  return session.scriptRow<Transaction>(
    `begin isolation level read committed;
     set local idle_in_transaction_session_timeout = ${idleTimeoutMs};
     set local lock_timeout = ${lockTimeoutMs};
     select ${session.schema}.sluice_pin(${literal(queueId)}, ${literal(worker.id)}, ${literal(worker.incarnation)}),
       pg_backend_pid() as pid, (extract(epoch from now()) * 1000000)::int8::text as "startedAtMicros"`,
  );
}

/** Columns of a row in COPY's binary format, in the order of ingest/rows.ts. */
const COPY_MESSAGES = {
  withoutVt: statement(
    'copy_messages',
    (s) =>
      `copy ${s}.pgqrs_messages (queue_id, producer_worker_id, origin, payload) from stdin (format binary)`,
  ),
  withVt: statement(
    'copy_messages',
    (s) =>
      `copy ${s}.pgqrs_messages (queue_id, producer_worker_id, origin, vt, payload) from stdin (format binary)`,
  ),
};

export async function copyMessages(
  session: Session,
  withVt: boolean,
  chunks: Iterable<Buffer>,
): Promise<number> {
  return session.copyIn(COPY_MESSAGES[withVt ? 'withVt' : 'withoutVt'](session.schema), chunks);
}

const INSERT_MESSAGES = statement('insert_messages', insertRows);

/** @param payloads a jsonb[] in binary format */
export async function insertMessages(
  on: Queryable,
  queueId: Id,
  workerId: Id,
  payloads: Buffer,
  delays: readonly number[] | null,
): Promise<void> {
  await on.query(INSERT_MESSAGES(on.schema), [queueId, workerId, payloads, delays]);
}

export interface StreamKey {
  id: Id;
  epoch: number;
}

/** Moves the ledger to batch `seq` and commits, in one message: when the ledger refuses, the COMMIT is never reached. */
export async function advanceAndCommit(
  session: Session,
  stream: StreamKey,
  seq: number,
  position: string,
  queueId: Id,
  worker: Incarnation,
): Promise<void> {
  await session.commit(
    `select ${session.schema}.sluice_pin(${literal(queueId)}, ${literal(worker.id)}, ${literal(worker.incarnation)});
     select ${session.schema}.sluice_advance(${literal(stream.id)}, ${stream.epoch}, ${seq}, ${literal(position)})`,
  );
}

/** Ends a backend if it is still in exactly that transaction. The same role may. */
const END_TRANSACTION = statement(
  'end_transaction',
  () => `
  select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
  where pid = $1 and extract(epoch from xact_start) * 1000000 = $2`,
);

export async function endTransaction(on: Queryable, { pid, startedAtMicros }: Transaction): Promise<void> {
  await on.query(END_TRANSACTION(on.schema), [pid, startedAtMicros]);
}
