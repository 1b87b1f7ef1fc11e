import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import { connect } from '../../src/index.js';
import { numbers } from '../ingest/support.js';
import { freshSchema } from '../support/database.js';
import { eventually, within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { missing, POOL_SIZE, startPooler } from './pgbouncer.js';
import { pooled } from './pooled.js';

describe.skipIf(missing !== undefined)('the schema through PgBouncer', () => {
  test('install, verify and uninstall work', async () => {
    const fresh = freshSchema();
    const { schema } = fresh;
    const pooler = await startPooler(fresh.url);
    const sluice = await connect({ dsn: pooler.url, schema });
    onTestFinished(async () => {
      await sluice.close();
      await fresh.drop();
    });
    await sluice.admin.install();
    await sluice.admin.verify();
    await sluice.admin.createQueue('work');
    await sluice.admin.uninstall();
    const left = await fresh.pool.query('select from pg_class where relnamespace = $1::regnamespace', [
      schema,
    ]);
    expect(left.rows).toEqual([]);
  });

  test('tables in use are mended while others use the pooler, and no lock and no setting is left behind', async () => {
    const s = await pooled();
    await (await s.producer()).ingest(numbered(100));
    await s.pool.query(`drop index ${s.schema}.sluice_messages_due; drop function ${s.schema}.sluice_pin`);
    // Others take the server connection that was used last, so each statement meets another one.
    const others = new pg.Pool({ connectionString: s.pooler.url, max: POOL_SIZE });
    let asked = 0;
    let over = false;
    const traffic = numbers(2).map(async () => {
      for (; !over; asked++) await others.query('select pg_sleep(random() / 200)');
    });
    onTestFinished(async () => {
      over = true;
      await Promise.all(traffic);
      await others.end();
    });
    await eventually('the traffic', () => asked > 10);
    await within(30_000, 'install', s.sluice.admin.install());
    await s.sluice.admin.verify();
    const locks = await s.pool.query(
      `select mode from pg_locks where locktype = 'advisory' and pid = any($1::int[])`,
      [await s.pooler.backends()],
    );
    expect(locks.rows).toEqual([]);
    over = true;
    await Promise.all(traffic);
    const settings = await Promise.all(
      numbers(POOL_SIZE).map(() =>
        // All at once, so that each has a server connection of its own.
        others.query<{ pid: number; changed: number }>(
          `select pg_backend_pid() as pid, count(*) filter (where source = 'session')::int as changed
           from pg_settings, pg_sleep(0.2) where name in ('statement_timeout', 'lock_timeout')`,
        ),
      ),
    );
    expect(new Set(settings.map(({ rows }) => rows[0]!.pid)).size).toBe(POOL_SIZE);
    expect(settings.map(({ rows }) => rows[0]!.changed)).toEqual(numbers(POOL_SIZE).map(() => 0));
  });
});
