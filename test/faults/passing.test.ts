import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { Db } from '../../src/db.js';
import { driverError } from '../../src/driver-error.js';
import { isAnswer } from '../../src/errors/answer.js';
import { connect } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { createRole, type Role } from '../support/roles.js';
import { numbered, type Scenario, scenario } from '../support/scenario.js';

/** A role that may everything, with settings of its own. */
async function roleWith(s: Scenario, settings: Record<string, string>): Promise<Role> {
  const role = await createRole(s);
  await s.pool.query(`alter role ${role.name} superuser`);
  for (const [name, value] of Object.entries(settings))
    await s.pool.query(`alter role ${role.name} set ${name} = '${value}'`);
  return role;
}

async function connected(s: Scenario, { url }: Role, maxConnections = 10) {
  const sluice = await connect({ dsn: url, schema: s.schema, maxConnections });
  onTestFinished(() => sluice.close());
  return sluice;
}

function opened(s: Scenario, url: string): Db {
  const db = Db.open(url, { schema: s.schema, maxConnections: 2, connectTimeoutMs: 5_000 });
  onTestFinished(() => db.close());
  return db;
}

const answered = (code: string) =>
  driverError(Object.assign(new Error('said so'), { severity: 'FATAL', code }));

test.each([
  ['25P03', 'idle_in_transaction_session_timeout'],
  ['25P04', 'transaction_timeout'],
  ['57P05', 'idle_session_timeout'],
  ['40001', 'a serialization failure'],
  ['40P01', 'a deadlock'],
])('%s (%s) passes, and is an answer: nothing was done', (code) => {
  const error = answered(code);
  expect(error).toMatchObject({ transient: true, sqlState: code });
  expect(isAnswer(error)).toBe(true);
});

test.each([
  ['idle_session_timeout', '57P05', ''],
  ['idle_in_transaction_session_timeout', '25P03', 'begin'],
])('a connection that ended by %s says so to what is asked next', async (setting, sqlState, before) => {
  const s = await scenario();
  const db = opened(s, (await roleWith(s, { [setting]: '50ms' })).url);
  const session = await db.session();
  const [row] = await session.query<{ pid: number }>('select pg_backend_pid() as pid');
  if (before) await session.script(before);
  await eventually('its end', async () => {
    const { rowCount } = await s.pool.query('select from pg_stat_activity where pid = $1', [row!.pid]);
    return rowCount === 0;
  });
  const asked = session.query('select 1').catch((error: unknown) => error);
  expect(await asked).toMatchObject({ code: 'DATABASE_ERROR', sqlState, transient: true });
  await session.leave(await asked);
  // And single statements do not notice.
  for (let n = 0; n < 20; n++) {
    await db.query('select 1');
    await delay(45 + Math.random() * 10);
  }
});

test('a transactional handler may be idle for longer than its role may', async () => {
  const s = await scenario();
  const role = await roleWith(s, { idle_in_transaction_session_timeout: '100ms' });
  await s.pool.query(`create table ${s.schema}.effects (n int)`);
  const sluice = await connected(s, role);
  await (await s.producer()).enqueue({ n: 1 });
  const consumer = await sluice.consumer('work');
  const stop = new AbortController();
  let calls = 0;
  const summary = await consumer.run(
    async (_message, { client }) => {
      calls++;
      await delay(400);
      await client.query(`insert into ${s.schema}.effects values (1)`);
      setImmediate(() => stop.abort());
    },
    { transactional: true, signal: stop.signal },
  );
  expect(calls).toBe(1);
  expect(summary).toMatchObject({ done: 1, retried: 0 });
  expect((await s.pool.query(`select from ${s.schema}.effects`)).rowCount).toBe(1);
});

test("when the server ends a handler's transaction, its reason is kept", async () => {
  const s = await scenario();
  await (await s.producer()).enqueue({ n: 1 });
  const consumer = await s.consumer();
  const stop = new AbortController();
  const failures: unknown[] = [];
  consumer.on('failed', ({ error }) => {
    failures.push(error);
    stop.abort();
  });
  await consumer.run(
    async (_message, { client }) => {
      const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
      await s.pool.query('select pg_terminate_backend($1)', [rows[0]!.pid]);
      await eventually('its end', async () => {
        const { rowCount } = await s.pool.query('select from pg_stat_activity where pid = $1', [
          rows[0]!.pid,
        ]);
        return rowCount === 0;
      });
      await delay(50);
      await client.query('select 1');
    },
    { transactional: true, signal: stop.signal },
  );
  expect(failures[0]).toMatchObject({
    code: 'CONNECTION_FAILED',
    message: expect.stringContaining('57P01') as string,
    cause: { sqlState: '57P01' },
  });
});

test('serializable is no reason for raw errors: registering and administering are done again', async () => {
  const s = await scenario();
  const role = await roleWith(s, { default_transaction_isolation: 'serializable' });
  const sluice = await connected(s, role, 16);
  for (let round = 1; round <= 10; round++) {
    const racing = Array.from({ length: 12 }, (_, n) =>
      n % 3 === 0
        ? sluice.consumer('work', { hostname: 'race', port: round })
        : n % 3 === 1
          ? sluice.admin.createQueue(`queue ${round} ${n % 2}`)
          : sluice.admin.setRetention('work', { archiveSeconds: 100 + n }),
    );
    for (const result of await Promise.allSettled(racing)) {
      if (result.status === 'fulfilled') continue;
      expect(['WORKER_ALREADY_ACTIVE', 'QUEUE_ALREADY_EXISTS']).toContain(
        (result.reason as { code: string }).code,
      );
    }
  }
});

test('a prepared statement whose table was altered is prepared anew', async () => {
  const s = await scenario();
  const db = opened(s, s.url);
  await s.pool.query(`create table ${s.schema}.altered (n int)`);
  const text = `select * from ${s.schema}.altered`;
  const session = await db.session();
  await session.prepared(text, []);
  await s.pool.query(`alter table ${s.schema}.altered add column m int`);
  expect(await session.prepared(text, [])).toEqual([]);
  session.release();
  // In a transaction it cannot go on; done again it works.
  const inTransaction = () =>
    db.transaction(async (on) => {
      await on.prepared(text, []);
    });
  await inTransaction();
  await s.pool.query(`alter table ${s.schema}.altered add column o int`);
  await expect(inTransaction()).rejects.toMatchObject({ sqlState: '0A000', transient: true });
  await inTransaction();
});

test('a server that takes no writes for a while, as behind one address in a fail-over, ends no stream', async () => {
  const s = await scenario();
  const role = await roleWith(s, {});
  const sluice = await connected(s, role);
  const producer = await sluice.producer('work');
  const readOnly = (value: string) =>
    s.pool.query(
      `alter role ${role.name} set default_transaction_read_only = ${value};
       select pg_terminate_backend(pid) from pg_stat_activity where usename = '${role.name}'`,
    );
  const stream = producer.writable({ batchSize: 10, retryMaxMs: 200, retries: 100 });
  const ended = once(stream, 'finish');
  ended.catch(() => undefined);
  const refusals: unknown[] = [];
  stream.on('retry', ({ error }) => refusals.push(error));
  const write = (from: number) => {
    for (const item of numbered(50, from)) stream.write(item);
  };
  write(0);
  await eventually('the first rows', async () => (await s.count()) === 50);
  await readOnly('on');
  write(50);
  const isRefusal = (error: unknown) => (error as { code: string }).code === 'NOT_PRIMARY';
  await eventually('a refusal', () => refusals.some(isRefusal));
  await readOnly('off');
  stream.end();
  await within(20_000, 'the stream', ended);
  expect(await s.delivered()).toEqual(Array.from({ length: 100 }, (_, n) => n));
});

test.each(['ENOTFOUND', 'EAI_AGAIN'])('%s is passing once there was a connection', async (code) => {
  const s = await scenario();
  let fails = false;
  let refused = 0;
  class Resolving extends pg.Client {
    override connect(): Promise<pg.Client>;
    override connect(callback: (error: Error) => void): void;
    override connect(callback?: (error: Error) => void): Promise<pg.Client> | void {
      if (!fails && !callback) return super.connect();
      if (!fails && callback) {
        super.connect(callback);
        return;
      }
      refused++;
      callback?.(Object.assign(new Error(`getaddrinfo ${code} db`), { code }));
    }
  }
  const name = `resolving ${s.schema}`;
  const pool = new pg.Pool({ connectionString: s.url, max: 4, Client: Resolving, application_name: name });
  pool.on('error', () => undefined);
  const sluice = await connect({ pool, schema: s.schema });
  onTestFinished(async () => {
    fails = false;
    await sluice.close();
    await pool.end();
  });
  const producer = await sluice.producer('work');
  const stream = producer.writable({ batchSize: 1, retryMaxMs: 100, retries: 100 });
  const ended = once(stream, 'finish');
  ended.catch(() => undefined);
  stream.write({ n: 0 });
  await eventually('a row', async () => (await s.count()) === 1);
  fails = true;
  await s.pool.query('select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1', [
    name,
  ]);
  stream.end({ n: 1 });
  await eventually('a few refusals', () => refused >= 3);
  fails = false;
  await within(20_000, 'the stream', ended);
  expect(await s.delivered()).toEqual([0, 1]);
});
