import { setTimeout as delay } from 'node:timers/promises';
import { backoffMs } from './backoff.js';
import type { Db, Session } from './db.js';
import {
  DatabaseError,
  PermissionDeniedError,
  SchemaMismatchError,
  SchemaNotInstalledError,
  TimeoutError,
} from './errors/index.js';
import {
  type Catalogue,
  inTransaction,
  pieces,
  readCatalogue,
  runsAlone,
  VERSION,
  type Wanted,
} from './sql/migrations/index.js';
import { retrying } from './retrying.js';
import * as schemaSql from './sql/schema.js';

const INSTALL_LOCK_WAIT_MS = 60_000;
/**
 * How long one change of a table in use waits for its lock before it lets the queue's traffic pass and tries again.
 * Below the server's deadlock_timeout (1 s): in a deadlock with a writer it is always the change that gives way.
 */
const LOCK_TIMEOUT_MS = 500;
const LOCK_WAIT_MS = 60_000;
/** One pass makes the tables, one what belongs to them; then nothing may be left. */
const PASSES = 3;

/** How long a pgqrs' install() that is under way is waited for. One that has failed keeps its lock, for half an hour perhaps. */
const PGQRS_WAIT_MS = 5_000;
/** What another client has made since the catalogue was read is looked at again. */
const MADE_MEANWHILE = { retries: 5, baseMs: 50, maxMs: 500, passes: isMadeMeanwhile };

const LOCK_NOT_AVAILABLE = '55P03';
const DEADLOCK_DETECTED = '40P01';

/** A piece that is not as it must be, and the statements that mend it. */
interface Difference {
  finding: string;
  steps: readonly string[];
}

/**
 * Brings the schema to what this version needs. On an empty schema in one transaction; over tables in use step by
 * step, indexes without blocking writers. Every pass asks the catalogue first, so an interrupted run is simply run again.
 */
export function install(db: Db, wanted: Wanted): Promise<void> {
  return retrying(MADE_MEANWHILE, () => attemptInstall(db, wanted));
}

async function attemptInstall(db: Db, wanted: Wanted): Promise<void> {
  const catalogue = await readCatalogue(db, db.schemaName);
  // Needs neither the lock nor any privilege when there is nothing to do, as at most starts of most processes.
  if (differences(catalogue, wanted).length === 0) return;
  const apart = apartFromPgqrs(catalogue.database);
  const found = await holding(() =>
    db.transaction(async (session) => {
      if (!(await schemaSql.tryInstallLock(session, db.schemaName)) || !(await apart(session)))
        return undefined;
      const { tables } = await readCatalogue(session, db.schemaName);
      if (tables.pgqrs_messages) return 'in use';
      // All of a pass in one message: one by one they would wait for each other's answers.
      await mend(session, db.schemaName, wanted, async (pieces) => {
        await session.script(pieces.flat().map(inTransaction).join(';\n'));
      });
      return 'finished';
    }),
  );
  if (found === 'in use') await installOnline(db, wanted, apart);
}

/** Whether a transaction may change the schema now: it has pgqrs' lock, or has waited for that long enough. */
type Apart = (session: Session) => Promise<boolean>;

/**
 * Keeps our changes and pgqrs' install() out of each other's way: for each transaction, since one that had its lock
 * while indexes are built would have pgqrs wait in a statement whose snapshot the build waits for.
 */
function apartFromPgqrs(database: string): Apart {
  const deadline = performance.now() + PGQRS_WAIT_MS;
  return async (session) => (await schemaSql.tryPgqrsLock(session, database)) || performance.now() > deadline;
}

/** Somebody else's tables, types, functions or rows of bookkeeping have come since the catalogue was read. */
function isMadeMeanwhile(error: unknown): boolean {
  return error instanceof DatabaseError && DUPLICATES.has(error.sqlState);
}

/** duplicate table (and index), object, schema, column, function; and a key of the catalogue's or the bookkeeping's */
const DUPLICATES = new Set(['42P07', '42710', '42P06', '42701', '42723', '23505']);

/**
 * Everything in which the schema differs from what this version needs, in words; empty when all is well.
 * @throws {SchemaNotInstalledError} there is nothing at all
 * @throws {SchemaMismatchError} a newer version's schema, of which this one can say nothing
 */
export async function inspect(db: Db): Promise<{ findings: string[]; mendable: boolean }> {
  const found = await readCatalogue(db, db.schemaName);
  if (!found.schemaExists) throw new SchemaNotInstalledError(`schema ${db.schema} does not exist`);
  if (!Object.keys(found.tables).some((table) => table !== '_sqlx_migrations')) {
    throw new SchemaNotInstalledError(`schema ${db.schema} has no queue tables`);
  }
  const all = differences(found);
  const findings = all.map(({ finding }) => finding);
  const mendable = all.every(({ steps }) => steps.length > 0);
  // Counting needs the tables as they must be.
  if (!mendable || !REFERRING.every((table) => found.tables[table])) return { findings, mendable };
  const orphans = await schemaSql.countOrphans(db);
  const counted = (Object.entries(orphans) as [keyof schemaSql.Orphans, number][])
    .filter(([, count]) => count > 0)
    .map(([kind, count]) => `${count} ${ORPHANS[kind]} that does not exist`);
  return { findings: [...findings, ...counted], mendable: counted.length === 0 };
}

const REFERRING = ['pgqrs_queues', 'pgqrs_workers', 'pgqrs_messages', 'pgqrs_workflow_runs'];
const ORPHANS: Record<keyof schemaSql.Orphans, string> = {
  queue: 'message(s) refer to a queue',
  producer: 'message(s) refer to a producer worker',
  consumer: 'message(s) refer to a consumer worker',
  run: 'workflow run(s) refer to a message',
};

/** Removes everything that install() makes, with all messages. Leaves the schema itself and other tables in it. */
export async function uninstall(db: Db): Promise<void> {
  await givingWay(() =>
    holding(() =>
      db.transaction(async (session) => {
        if (!(await schemaSql.tryInstallLock(session, db.schemaName))) return undefined;
        await session.script(schemaSql.lockTimeout(LOCK_TIMEOUT_MS));
        const found = await readCatalogue(session, db.schemaName);
        for (const piece of pieces().toReversed()) {
          for (const sql of piece.remove?.(found) ?? []) await session.query(sql);
        }
        return 'finished';
      }),
    ),
  );
}

/**
 * Over tables in use: each change in a short transaction of its own. The lock on the installation is held by a
 * transaction on another connection, which does nothing else and so keeps no snapshot that an index build would wait
 * for: a lock of the session would stay behind, on a server connection of others, where a pooler hands out another
 * one for every transaction.
 */
async function installOnline(db: Db, wanted: Wanted, apart: Apart): Promise<void> {
  const lock = await db.urgent.session();
  try {
    await holding(async () => {
      await lock.begin();
      if (await schemaSql.tryInstallLock(lock, db.schemaName)) {
        await lock.script(schemaSql.HOLD_ON);
        return true;
      }
      await lock.script('rollback');
      return undefined;
    });
    await mendOnline(db, wanted, apart);
    await lock.commit(); // fails where the lock was lost on the way
    lock.release();
  } catch (error) {
    await lock.rollback();
    throw error;
  }
}

async function mendOnline(db: Db, wanted: Wanted, apart: Apart): Promise<void> {
  const session = await db.session();
  try {
    const hurried = await schemaSql.hasTimeouts(session);
    if (hurried) await session.script(schemaSql.SESSION_WITHOUT_TIMEOUTS);
    await mend(session, db.schemaName, wanted, async (pieces) => {
      for (const steps of pieces) {
        if (steps.some(runsAlone)) for (const sql of steps) await session.query(sql);
        else await givingWay(() => shortTransaction(session, steps, apart));
      }
    });
    if (hurried) await session.script(schemaSql.SESSION_AS_BEFORE);
    session.release();
  } catch (error) {
    session.discard(); // ends whatever was open
    throw error;
  }
}

/** Runs the steps of every piece that differs, until none does. Refuses before the first step what it cannot finish. */
async function mend(
  session: Session,
  schemaName: string,
  wanted: Wanted,
  run: (pieces: readonly (readonly string[])[]) => Promise<void>,
): Promise<void> {
  for (let pass = 1; ; pass++) {
    const found = await readCatalogue(session, schemaName);
    const left = differences(found, wanted);
    if (left.length === 0) return;
    const hopeless = pass > PASSES ? left : left.filter(({ steps }) => steps.length === 0);
    if (hopeless.length > 0) {
      throw new SchemaMismatchError(
        'install() cannot mend this',
        hopeless.map(({ finding }) => finding),
      );
    }
    refuseUnprivileged(found);
    await run(left.map(({ steps }) => steps));
  }
}

/** What differs, in the order of its mending. What belongs to a table that is missing comes with the next pass. */
function differences(found: Catalogue, wanted: Wanted = {}): Difference[] {
  refuseNewer(found);
  return pieces(wanted)
    .filter(({ on }) => on === undefined || found.tables[on])
    .flatMap((piece) => {
      const finding = piece.differs(found);
      return finding === undefined ? [] : [{ finding, steps: piece.mend(found) }];
    });
}

async function shortTransaction(session: Session, steps: readonly string[], apart: Apart): Promise<void> {
  for (;;) {
    await session.begin(schemaSql.lockTimeout(LOCK_TIMEOUT_MS));
    try {
      const now = await apart(session);
      if (now) for (const sql of steps) await session.query(sql);
      await session.commit();
      if (now) return;
    } catch (error) {
      await session.script('rollback');
      throw error;
    }
    await delay(50);
  }
}

/** Makes a change that takes locks again and again until it gets them. */
async function givingWay(change: () => Promise<unknown>): Promise<void> {
  const deadline = performance.now() + LOCK_WAIT_MS;
  for (let attempt = 1; ; attempt++) {
    try {
      await change();
      return;
    } catch (error) {
      if (!(error instanceof DatabaseError)) throw error;
      if (error.sqlState !== LOCK_NOT_AVAILABLE && error.sqlState !== DEADLOCK_DETECTED) throw error;
      if (performance.now() > deadline) {
        throw new TimeoutError(
          'waiting for a lock on the queue tables that another transaction holds',
          LOCK_WAIT_MS,
        );
      }
      await delay(backoffMs(attempt, { baseMs: 100, maxMs: 3_000 }));
    }
  }
}

/**
 * Asks for the lock on the installation until `attempt` got it and answers. It may leave no transaction open meanwhile:
 * the lock's holder may be building an index, for which the server waits until all transactions of now are over.
 */
async function holding<T>(attempt: () => Promise<T | undefined>): Promise<T> {
  const deadline = performance.now() + INSTALL_LOCK_WAIT_MS;
  for (;;) {
    const answer = await attempt();
    if (answer !== undefined) return answer;
    if (performance.now() > deadline) {
      throw new TimeoutError('waiting for another install() on this schema', INSTALL_LOCK_WAIT_MS);
    }
    await delay(50 + Math.random() * 50);
  }
}

function refuseNewer({ sluiceVersion }: Catalogue): void {
  if (sluiceVersion > VERSION) {
    throw new SchemaMismatchError('the schema belongs to a newer pg-sluice; update the library', [
      `schema version ${sluiceVersion}, this library knows ${VERSION}`,
    ]);
  }
}

/** Before the first step, since a change online is not undone when a later one is refused. */
function refuseUnprivileged({ role, database, schema, schemaExists, mayCreate, notOwned }: Catalogue): void {
  if (notOwned.length > 0) {
    throw new PermissionDeniedError(
      `install() must alter ${notOwned.join(', ')}, and role "${role}" is not the owner; run it as the owner`,
    );
  }
  if (mayCreate) return;
  const [wanted, where] = schemaExists
    ? ['tables', `SCHEMA ${schema}`]
    : [`schema ${schema}`, `DATABASE "${database}"`];
  throw new PermissionDeniedError(
    `install() must create ${wanted}, which role "${role}" may not: GRANT CREATE ON ${where} TO "${role}"`,
  );
}
