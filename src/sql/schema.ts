import { crc32 } from 'node:zlib';
import type { Queryable } from '../db.js';
import { statement } from './statement.js';

/** One installer at a time per schema; two schemas of one database may be installed at once. */
const TRY_INSTALL_LOCK = statement(
  'try_install_lock',
  () =>
    `select pg_try_advisory_xact_lock(hashtextextended('sluice install '::text || $1::text, 0::bigint)) as got`,
);

/** Asks without waiting: a statement that waits holds a snapshot, for which CREATE INDEX CONCURRENTLY would wait in turn. */
export async function tryInstallLock(on: Queryable, schemaName: string): Promise<boolean> {
  const [row] = await on.query<{ got: boolean }>(TRY_INSTALL_LOCK(on.schema), [schemaName]);
  return row?.got === true;
}

const TRY_PGQRS_LOCK = statement(
  'try_pgqrs_install_lock',
  () => `select pg_try_advisory_xact_lock($1::bigint) as got`,
);

/**
 * The lock under which pgqrs' install() works, which is that of sqlx' migrator: one for the whole database. Theirs is of
 * the session; ours ends with the transaction, so that none stays behind on a pooler's connection.
 */
export async function tryPgqrsLock(on: Queryable, database: string): Promise<boolean> {
  const key = 0x3d32ad9en * BigInt(crc32(database));
  const [row] = await on.query<{ got: boolean }>(TRY_PGQRS_LOCK(on.schema), [key.toString()]);
  return row?.got === true;
}

/**
 * For a transaction that only holds the lock while indexes are built elsewhere. To be sent after the lock's statement:
 * a simple message closes that one's portal, whose snapshot they would wait for until the end of the transaction.
 */
export const HOLD_ON = 'set local idle_in_transaction_session_timeout = 0';

const HAS_TIMEOUTS = statement(
  'has_timeouts',
  () =>
    `select current_setting('statement_timeout') <> '0' or current_setting('lock_timeout') <> '0' as limited`,
);

/** Whether SESSION_WITHOUT_TIMEOUTS would change anything; behind a pooler it would stay with a connection of others. */
export async function hasTimeouts(on: Queryable): Promise<boolean> {
  const [row] = await on.query<{ limited: boolean }>(HAS_TIMEOUTS(on.schema));
  return row?.limited === true;
}

/** DDL gives up quickly, so that the queue's traffic does not pile up behind its wait for a lock. */
export function lockTimeout(ms: number): string {
  return `set local lock_timeout = ${ms}`;
}

/** An index built without blocking writers waits for all of them and takes its time: a role's time-outs would end it half-way. */
export const SESSION_WITHOUT_TIMEOUTS = 'set statement_timeout = 0; set lock_timeout = 0';
export const SESSION_AS_BEFORE = 'reset statement_timeout; reset lock_timeout';

const COUNT_ORPHANS = statement(
  'count_orphans',
  (s) => `
  select
    (select count(*)::int from ${s}.pgqrs_messages m
      where not exists (select from ${s}.pgqrs_queues q where q.id = m.queue_id)) as queue,
    (select count(*)::int from ${s}.pgqrs_messages m where m.producer_worker_id is not null
      and not exists (select from ${s}.pgqrs_workers w where w.id = m.producer_worker_id)) as producer,
    (select count(*)::int from ${s}.pgqrs_messages m where m.consumer_worker_id is not null
      and not exists (select from ${s}.pgqrs_workers w where w.id = m.consumer_worker_id)) as consumer,
    (select count(*)::int from ${s}.pgqrs_workflow_runs r
      where not exists (select from ${s}.pgqrs_messages m where m.id = r.message_id)) as run`,
);

export interface Orphans {
  queue: number;
  producer: number;
  consumer: number;
  run: number;
}

/** Rows that refer to something that is not there. Reads the whole messages table. */
export async function countOrphans(on: Queryable): Promise<Orphans> {
  const [row] = await on.query<Orphans>(COUNT_ORPHANS(on.schema));
  return row as Orphans;
}
