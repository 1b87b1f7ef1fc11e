import { literal, type Queryable, type Session } from '../db.js';
import { DatabaseError } from '../errors/index.js';
import type { Id } from '../types.js';
import { insertRows } from './enqueue.js';
import { RAISED, statement } from './statement.js';
import { micros } from './time.js';
import type { Incarnation } from './workers.js';

/** One batch's transaction on the server, named exactly: a process id alone may be somebody else's by now. */
export interface Transaction {
  pid: number;
  /** `now()` of the transaction, in microseconds since 1970: exact, and the same in every TimeZone and DateStyle. */
  startedAtMicros: string;
}

/**
 * Opens a batch's transaction, in one message. Values are literals because the simple protocol, which alone takes several
 * statements at once, has no parameters. Warnings are to come whatever the role says, since one may say what the COMMIT is
 * worth (session.ts).
 *
 * Whether the queue and the worker are there is only looked at, so that rows are not sent for nothing: what counts is
 * whether they are when it commits, which `advanceAndCommit` sees to. Locked all the time, by batches side by side, the
 * worker's row would need a multixact for each. A retry pins them, since it may lock the ledger's row before.
 * @param lockTimeoutMs for a retry, which may meet locks of a half-dead predecessor; undefined for the first attempt
 */
export async function beginBatch(
  session: Session,
  queueId: Id,
  worker: Incarnation,
  lockTimeoutMs: number | undefined,
): Promise<Transaction> {
  const { schema } = session;
  const pin = pinText(schema, queueId, worker);
  const look = `
    case when exists (select from ${schema}.pgqrs_workers w
      where w.id = ${literal(worker.id)}::bigint and w.started_at = ${literal(worker.incarnation)}::timestamptz)
    then null else ${pin} end`;
  return session.begin<Transaction>(
    `set local lock_timeout = ${lockTimeoutMs ?? 0};
     set local client_min_messages = warning;
     select ${lockTimeoutMs === undefined ? look : pin}, pg_backend_pid() as pid,
       ${micros('now()')}::text as "startedAtMicros"`,
  );
}

const pinText = (schema: string, queueId: Id, { id, incarnation }: Incarnation) =>
  `${schema}.sluice_pin(${literal(queueId)}, ${literal(id)}, ${literal(incarnation)})`;

const PIN_QUEUE = statement('pin_queue', (s) => `select ${s}.sluice_pin($1, $2, $3)`);

/** Pins another queue for the transaction that is open. */
export async function pinQueue(on: Queryable, queueId: Id, worker: Incarnation): Promise<void> {
  await on.query(PIN_QUEUE(on.schema), [queueId, worker.id, worker.incarnation]);
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

/** @param count of the rows @throws {DatabaseError} `RAISED.rowsMissing` */
export async function copyMessages(
  session: Session,
  withVt: boolean,
  chunks: Iterable<Buffer>,
  count: number,
): Promise<void> {
  const text = COPY_MESSAGES[withVt ? 'withVt' : 'withoutVt'](session.schema);
  assertAll(count, await session.copyIn(text, chunks));
}

const INSERT_MESSAGES = statement(
  'insert_messages',
  (s) => `
  with inserted as (${insertRows(s)} returning 1) select count(*)::int as count from inserted`,
);

/** @param payloads a jsonb[] in binary format @param count of them @throws {DatabaseError} `RAISED.rowsMissing` */
export async function insertMessages(
  on: Queryable,
  queueId: Id,
  workerId: Id,
  payloads: Buffer,
  delays: readonly number[] | null,
  count: number,
): Promise<void> {
  const values = [queueId, workerId, payloads, delays, null];
  const [row] = await on.query<{ count: number }>(INSERT_MESSAGES(on.schema), values);
  assertAll(count, row?.count);
}

/** A trigger or a rule of somebody else's may pass over rows, and the server says so by the count alone. */
function assertAll(sent: number, taken = 0): void {
  if (taken === sent) return;
  const message = `the table pgqrs_messages took ${taken} of ${sent} rows: a trigger or a rule leaves rows out`;
  throw new DatabaseError(`${message} (SQLSTATE ${RAISED.rowsMissing})`, RAISED.rowsMissing);
}

export interface StreamKey {
  id: Id;
  epoch: number;
}

/** How far a batch takes its stream. */
export interface Step {
  seq: number;
  /** Source position behind its last item. */
  position: string;
  /** Rows that it adds. */
  rows: number;
}

/**
 * Pins the queue and the worker, which a delete may have taken or another process replaced since, moves the ledger and
 * commits, in one message: when one of them refuses, the COMMIT is never reached.
 */
export async function advanceAndCommit(
  session: Session,
  queueId: Id,
  worker: Incarnation,
  { id, epoch }: StreamKey,
  { seq, position, rows }: Step,
): Promise<void> {
  const { schema } = session;
  await session.commit(
    `select ${pinText(schema, queueId, worker)};
     select ${schema}.sluice_advance(${literal(id)}, ${epoch}, ${seq}, ${literal(position)}, ${rows})`,
  );
}

/**
 * Ends a backend if it is still in exactly that transaction. The same role may. Not one that waits for a synchronous
 * standby: it has committed, and ended it would only show what a fail-over may undo.
 */
const END_TRANSACTION = statement(
  'end_transaction',
  () => `
  select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
  where pid = $1 and ${micros('xact_start')} = $2::int8 and wait_event is distinct from 'SyncRep'`,
);

export async function endTransaction(on: Queryable, { pid, startedAtMicros }: Transaction): Promise<void> {
  await on.query(END_TRANSACTION(on.schema), [pid, startedAtMicros]);
}
