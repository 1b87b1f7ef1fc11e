import { createServer, type AddressInfo } from 'node:net';
import { inspect } from 'node:util';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { Admin, Config, connect, Producer, SluiceError } from '../src/index.js';
import { databaseUrl, freshSchema } from './support/database.js';
import { eventually, within } from './support/eventually.js';
import { numbered, scenario } from './support/scenario.js';
import { numbers } from './ingest/support.js';

test('ingest() takes sync and async iterables and says what it did', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const summary = await producer.ingest(numbered(250), { batchSize: 100 });
  expect(summary).toMatchObject({ accepted: 250, committed: 250, batches: 3, retries: 0 });
  expect(summary.bytes).toBeGreaterThan(250 * 50);
  for (const phase of ['begin', 'transfer', 'commit'] as const) expect(summary.ms[phase]).toBeGreaterThan(0);
  const later = async function* () {
    await Promise.resolve();
    yield* numbered(50, 250);
  };
  await producer.ingest(later());
  expect(await test.delivered()).toEqual(numbers(300));
});

test('a producer over a pool of the caller’s uses it, and leaves it open and nothing else behind', async () => {
  const test = await scenario();
  const pool = new pg.Pool({ connectionString: test.url, max: 3, application_name: `own-${test.schema}` });
  const config = Config.fromDsnWithSchema(test.url, test.schema);
  const producer = await Producer.create({ pool, queue: test.queue, config });
  await producer.ingest(numbered(10));
  await producer.close();
  expect((await pool.query('select 1')).rowCount).toBe(1);
  expect(await test.count()).toBe(10);
  await pool.end();
  const left = async () => {
    const connections = 'select from pg_stat_activity where application_name = $1';
    return (await test.pool.query(connections, [`own-${test.schema}`])).rowCount;
  };
  // Sooner than an idle client would end by itself.
  await eventually('no connection is left', async () => (await left()) === 0, 5_000);
});

const PASSWORD = 'hunter2-very-secret';

/** Wherever an error may be printed, and whatever it was caused by. */
function expectNoPassword(error: unknown): void {
  const shown = [inspect(error, { depth: 20, showHidden: true }), String(error), JSON.stringify(error)];
  for (let at = error; at instanceof Error; at = at.cause) shown.push(at.message, at.stack ?? '');
  for (const text of shown) expect(text).not.toContain(PASSWORD);
}

async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  const failure = await within(
    10_000,
    'the failure',
    promise.then(
      () => undefined,
      (error: unknown) => error,
    ),
  );
  expect(failure).toBeInstanceOf(SluiceError);
  expectNoPassword(failure);
  return failure;
}

/** The test server's URL with changes, and the password that must never be seen. */
function urlWith(change: (url: URL) => void): string {
  const url = new URL(databaseUrl());
  url.password = PASSWORD;
  change(url);
  return url.href;
}

/** A port that takes connections and never says a word. */
async function silentPort(): Promise<number> {
  const server = createServer((socket) => socket.on('error', () => undefined).resume());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  return (server.address() as AddressInfo).port;
}

test('connect() says what is wrong with the log-in, the database and the host, without the password', async () => {
  const wrong = async (change: (url: URL) => void) =>
    failureOf(connect({ dsn: urlWith(change), connectionTimeoutSeconds: 1 }));

  expect(await wrong(() => undefined)).toMatchObject({
    code: 'CONNECTION_FAILED',
    transient: false,
    message: expect.stringContaining('password authentication failed') as string,
  });
  expect(await wrong((url) => (url.username = 'nobody_of_that_name'))).toMatchObject({
    code: 'CONNECTION_FAILED',
  });
  expect(await wrong((url) => (url.hostname = 'no-such-host.invalid'))).toMatchObject({
    code: 'CONNECTION_FAILED',
    transient: false,
  });
  expect(await wrong((url) => (url.port = '1'))).toMatchObject({
    code: 'CONNECTION_FAILED',
    transient: true,
    message: expect.stringContaining('ECONNREFUSED') as string,
  });
  const port = String(await silentPort());
  expect(await wrong((url) => (url.port = port))).toMatchObject({
    code: 'CONNECTION_FAILED',
    transient: true,
  });
});

test('connect() says that a database does not exist', async () => {
  const url = new URL(databaseUrl());
  url.pathname = '/no_such_database';
  expect(await failureOf(connect(url.href))).toMatchObject({
    code: 'CONNECTION_FAILED',
    transient: false,
    message: expect.stringContaining('no_such_database') as string,
  });
});

test.each([
  'not a url',
  'mysql://user:hunter2-very-secret@host/db',
  'postgres://user:hunter2-very-secret@host:port/db',
])('connect() refuses the DSN %s by its rule', async (dsn) => {
  expect(await failureOf(connect(dsn))).toMatchObject({ code: 'INVALID_OPTION' });
});

test('a missing schema and a queue that does not exist are told apart', async () => {
  const fresh = freshSchema();
  onTestFinished(() => fresh.drop());
  const sluice = await connect({ dsn: fresh.url, schema: fresh.schema });
  onTestFinished(() => sluice.close());
  const missing = await failureOf(sluice.producer('work'));
  expect(missing).toMatchObject({ code: 'SCHEMA_NOT_INSTALLED' });
  expect((missing as Error).message).toContain('admin.install()');
  await sluice.admin.install();
  expect(await failureOf(sluice.producer('work'))).toMatchObject({ code: 'QUEUE_NOT_FOUND', queue: 'work' });
});

test('a stream whose server is gone when it opens fails without the password', async () => {
  const { url, schema, queue } = await scenario();
  const admin = await Admin.create(Config.fromDsnWithSchema(url, schema));
  const producer = await Producer.create({
    pool: admin.pool,
    queue,
    config: Config.fromDsnWithSchema(url, schema),
  });
  onTestFinished(() => producer.close().catch(() => undefined));
  await admin.close();
  const failure = await failureOf(producer.ingest([1]));
  expect(failure).toMatchObject({ code: 'CONNECTION_FAILED', progress: { committed: 0 } });
  expect(inspect(failure, { depth: 20 })).not.toContain(new URL(url).password + '@');
});
