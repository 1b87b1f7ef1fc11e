import { literal, type Queryable, type Session } from '../db.js';
import type { Id } from '../types.js';
import { statement } from './statement.js';
import type { Incarnation } from './workers.js';

/** One batch's transaction on the server, named exactly: a process id alone may be somebody else's by now. */
export interface Transaction {
  pid: number;
  /** `now()` of the transaction, as text. */
  startedAt: string;
  /** The same as PostgreSQL sends a timestamptz in binary: microseconds since 2000, in hex. */
  startedAtBinary: string;
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
       pg_backend_pid() as pid, now()::text as "startedAt", encode(timestamptz_send(now()), 'hex') as "startedAtBinary"`,
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

/** One array per column: the number of parameters never depends on the number of rows. */
const INSERT_MESSAGES = statement(
  'insert_messages',
  (s) => `
  insert into ${s}.pgqrs_messages (queue_id, producer_worker_id, origin, vt, payload)
  select $1, $2, 1, now() + coalesce(delay, 0) * interval '1 second', payload
  from unnest($3::jsonb[], $4::float8[]) as item (payload, delay)`,
);

/** @param payloads a jsonb[] in binary format */
export async function insertMessages(
  session: Session,
  queueId: Id,
  workerId: Id,
  payloads: Buffer,
  delays: readonly number[] | null,
): Promise<void> {
  await session.query(INSERT_MESSAGES(session.schema), [queueId, workerId, payloads, delays]);
}

export interface StreamKey {
  id: Id;
  epoch: number;
}

/**
 * Moves the ledger to batch `seq` and commits, in one message: when the ledger refuses, the COMMIT is never reached.
 * @returns the tag of the last command, which is COMMIT only if the rows are in
 */
export async function advanceAndCommit(
  session: Session,
  stream: StreamKey,
  seq: number,
  position: string,
): Promise<string | undefined> {
  const tags = await session.script(
    `select ${session.schema}.sluice_advance(${literal(stream.id)}, ${stream.epoch}, ${seq}, ${literal(position)}); commit`,
  );
  return tags.at(-1);
}

/** Ends a backend if it is still in exactly that transaction. The same role may. */
const END_TRANSACTION = statement(
  'end_transaction',
  () => `
  select pg_terminate_backend(pid) from pg_catalog.pg_stat_activity where pid = $1 and xact_start = $2::timestamptz`,
);

export async function endTransaction(on: Queryable, { pid, startedAt }: Transaction): Promise<void> {
  await on.query(END_TRANSACTION(on.schema), [pid, startedAt]);
}
