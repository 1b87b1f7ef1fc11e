import { setTimeout as delay } from 'node:timers/promises';
import { backoffMs } from './backoff.js';
import type { Db, Session } from './db.js';
import { DatabaseError, SchemaMismatchError, TimeoutError } from './errors.js';
import {
  type Catalogue,
  PIECES,
  type Piece,
  readCatalogue,
  runsAlone,
  VERSION,
} from './sql/migrations/index.js';
import * as schemaSql from './sql/schema.js';

const INSTALL_LOCK_WAIT_MS = 60_000;
/** How long one change of a table in use waits for its lock, and how often it is tried. */
const LOCK_TIMEOUT_MS = 3_000;
const LOCK_TRIES = 10;

/**
 * Brings the schema to what this version needs. On an empty schema in one transaction; over tables in use step by
 * step, indexes without blocking writers. Every step asks the catalogue first, so an interrupted run is simply run again.
 */
export async function install(db: Db): Promise<void> {
  const inUse = await db.transaction(async (session) => {
    await installLock(session, 'transaction', db.schemaName);
    const found = await readCatalogue(session, db.schemaName);
    refuseNewer(found);
    if (found.tables.pgqrs_messages) return true;
    if (!found.schemaExists) await schemaSql.createSchema(session);
    for (const piece of PIECES) {
      for (const sql of unfinished(piece, db.schema, found)) {
        await session.query(sql.replace(' concurrently ', ' '));
      }
    }
    return false;
  });
  if (inUse) await installOnline(db);
}

/** Everything in which the schema differs from what this version needs, in words; empty when all is well. */
export async function inspect(db: Db): Promise<string[]> {
  const found = await readCatalogue(db, db.schemaName);
  if (!found.schemaExists) return [`schema ${db.schema} is missing`];
  const findings = PIECES.map((piece) => piece.differs(found)).filter((finding) => finding !== undefined);
  const { pgqrs_messages, pgqrs_queues, pgqrs_workers, pgqrs_workflow_runs } = found.tables;
  if (pgqrs_messages && pgqrs_queues && pgqrs_workers && pgqrs_workflow_runs) {
    const orphans = await schemaSql.countOrphans(db);
    for (const [kind, count] of Object.entries(orphans) as [keyof schemaSql.Orphans, number][]) {
      if (count > 0) findings.push(`${count} ${ORPHANS[kind]} that does not exist`);
    }
  }
  return findings;
}

const ORPHANS: Record<keyof schemaSql.Orphans, string> = {
  queue: 'message(s) refer to a queue',
  producer: 'message(s) refer to a producer worker',
  consumer: 'message(s) refer to a consumer worker',
  run: 'workflow run(s) refer to a message',
};

/** Removes everything that install() makes, with all messages. Leaves the schema itself and other tables in it. */
export async function uninstall(db: Db): Promise<void> {
  await db.transaction(async (session) => {
    await installLock(session, 'transaction', db.schemaName);
    const { tables } = await readCatalogue(session, db.schemaName);
    if (tables._sqlx_migrations) await schemaSql.forgetPgqrsMigrations(session);
    for (const piece of PIECES.toReversed()) {
      for (const sql of piece.remove?.(db.schema) ?? []) {
        if (!sql.includes('_sqlx_migrations')) await session.query(sql);
      }
    }
  });
}

/** Over tables in use: each change in a short transaction of its own, under a session lock on the installation. */
async function installOnline(db: Db): Promise<void> {
  const session = await db.session();
  try {
    await installLock(session, 'session', db.schemaName);
    let found = await readCatalogue(session, db.schemaName);
    for (const piece of PIECES) {
      const steps = unfinished(piece, db.schema, found);
      if (steps.length === 0) continue;
      if (steps.some(runsAlone)) for (const sql of steps) await session.query(sql);
      else await inShortTransaction(session, steps);
      found = await readCatalogue(session, db.schemaName);
    }
    await schemaSql.releaseInstallLock(session, db.schemaName);
    session.release();
  } catch (error) {
    // Ends the session, and with it the lock and whatever was open.
    session.discard();
    throw error;
  }
}

/** What `piece` still needs; throws when it differs in a way that only a person can mend. */
function unfinished(piece: Piece, schema: string, found: Catalogue): readonly string[] {
  const finding = piece.differs(found);
  if (finding === undefined) return [];
  const steps = piece.mend(schema, found);
  if (steps.length === 0)
    throw new SchemaMismatchError('install() cannot mend this without touching data', [finding]);
  return steps;
}

async function inShortTransaction(session: Session, steps: readonly string[]): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    await session.script(schemaSql.withLockTimeout(LOCK_TIMEOUT_MS));
    try {
      for (const sql of steps) await session.query(sql);
      await session.commit();
      return;
    } catch (error) {
      const locked = error instanceof DatabaseError && error.sqlState === '55P03';
      if (!locked || attempt === LOCK_TRIES) throw error;
      await session.script('rollback');
      await delay(backoffMs(attempt, { baseMs: 200, maxMs: 3_000 }));
    }
  }
}

async function installLock(
  session: Session,
  scope: 'transaction' | 'session',
  schemaName: string,
): Promise<void> {
  const deadline = performance.now() + INSTALL_LOCK_WAIT_MS;
  while (!(await schemaSql.tryInstallLock(session, scope, schemaName))) {
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
