import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { Db } from '../../src/db.js';
import { onClient } from '../../src/on-client.js';
import { eventually } from '../support/eventually.js';
import { type Scenario, scenario } from '../support/scenario.js';

/** A lock on a table, held until the test is over. */
async function locked(s: Scenario, table: string): Promise<() => Promise<void>> {
  const client = await s.pool.connect();
  await client.query(`begin; lock table ${s.schema}.${table}`);
  let unlocked: Promise<void> | undefined;
  const unlock = () => (unlocked ??= client.query('rollback').then(() => client.release()));
  onTestFinished(unlock);
  return unlock;
}

/** How many backends wait for a lock with such a statement of this schema. */
async function waiting(s: Scenario, statement: string): Promise<number> {
  const { rows } = await s.pool.query<{ count: number }>(
    `select count(*)::int as count from pg_stat_activity
     where wait_event_type = 'Lock' and query like $1 and query like $2`,
    [`%sluice:${statement}%`, `%${s.schema}%`],
  );
  return rows[0]!.count;
}

/** A table where each COMMIT of a row takes a while. */
async function slowCommits(s: Scenario, seconds: number): Promise<void> {
  await s.pool.query(`
    create table ${s.schema}.slow (n int);
    create function ${s.schema}.slow() returns trigger language plpgsql as
      $$ begin perform pg_sleep(${seconds}); return null; end $$;
    create constraint trigger slow after insert on ${s.schema}.slow deferrable initially deferred
      for each row execute function ${s.schema}.slow()`);
}

function database(s: Scenario): Db {
  const db = Db.open(s.url, { schema: s.schema, maxConnections: 2, connectTimeoutMs: 5_000 });
  onTestFinished(() => db.close());
  return db;
}

test('heartbeats that wait for a lock leave no backend behind', { timeout: 60_000 }, async () => {
  const s = await scenario();
  const workers = await Promise.all(
    Array.from({ length: 4 }, () => s.consumer({ heartbeatIntervalSeconds: 0.05 })),
  );
  const failed = workers.map(() => 0);
  workers.forEach((worker, at) => worker.on('heartbeatError', () => failed[at]!++));
  const unlock = await locked(s, 'pgqrs_workers');
  let most = 0;
  await eventually(
    'two failures of each',
    async () => {
      most = Math.max(most, await waiting(s, 'heartbeat'));
      return failed.every((times) => times >= 2);
    },
    50_000,
  );
  // Two connections may wait at a time, and one more be on its way out.
  expect(most).toBeLessThanOrEqual(3);
  await unlock();
  await eventually('a healthy worker', () => workers[0]!.isHealthy({ seconds: 1 }));
});

test('a statement that is given up is cancelled on the server', async () => {
  const s = await scenario();
  const db = database(s);
  const asleep = async () =>
    (await s.pool.query(`select from pg_stat_activity where query = 'select pg_sleep(61)'`)).rowCount;
  const given = onClient(db, { what: 'sleeping', ms: 100 }, (session) =>
    session.query('select pg_sleep(61)'),
  );
  await expect(given).rejects.toMatchObject({ code: 'TIMEOUT', message: 'sleeping took longer than 100 ms' });
  await eventually('its end', async () => (await asleep()) === 0, 5_000);
});

test('so is a COPY, and what a handler runs on a client that it was lent', async () => {
  const s = await scenario();
  const db = database(s);
  await s.pool.query(`create table ${s.schema}.copied (n int)`);
  const unlock = await locked(s, 'copied');
  const limits = { what: 'copying', ms: 100 };
  const copying = onClient(db, limits, async (session) => {
    await session.begin();
    await session.copyIn(`copy ${s.schema}.copied from stdin /* sluice:copied ${s.schema} */`, [
      Buffer.from('1\n'),
    ]);
  });
  await expect(copying).rejects.toMatchObject({ code: 'TIMEOUT' });
  const lent = onClient(db, limits, async (session) => {
    await session.begin();
    await session.lent.query(`select from ${s.schema}.copied /* sluice:copied ${s.schema} */`);
  });
  await expect(lent).rejects.toMatchObject({ code: 'TIMEOUT' });
  await eventually('their end', async () => (await waiting(s, 'copied')) === 0, 5_000);
  await unlock();
});

test('a COMMIT that is given up is not cancelled', async () => {
  const s = await scenario();
  const db = database(s);
  await slowCommits(s, 1);
  const given = onClient(db, { what: 'committing', ms: 300 }, async (session) => {
    await session.begin();
    await session.query(`insert into ${s.schema}.slow values (1)`);
    await session.commit();
  });
  await expect(given).rejects.toMatchObject({ code: 'TIMEOUT' });
  const isIn = async () => (await s.pool.query(`select from ${s.schema}.slow`)).rowCount === 1;
  await eventually('the row', isIn, 10_000);
});

test('a client that was given up is never used again', async () => {
  const s = await scenario();
  const db = database(s);
  const pidOf = async () => (await db.query<{ pid: number }>('select pg_backend_pid() as pid'))[0]!.pid;
  const used = new Set<number>();
  for (let round = 0; round < 20; round++) {
    const ms = 5 + Math.random() * 20;
    await onClient(db, { what: 'sleeping', ms }, async (session) => {
      const [row] = await session.query<{ pid: number }>('select pg_backend_pid() as pid');
      used.add(row!.pid);
      await session.query('select pg_sleep(10)');
    }).catch(() => undefined);
    // A cancel that came late would hit one of these.
    for (let n = 0; n < 5; n++) expect(used).not.toContain(await pidOf());
    await delay(0);
  }
});
