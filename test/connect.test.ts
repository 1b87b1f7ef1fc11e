import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { inspect } from 'node:util';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { Config, connect, type ConnectOptions, type Sluice } from '../src/index.js';
import { databaseUrl, freshSchema } from './support/database.js';
import { eventually, within } from './support/eventually.js';
import { startProxy } from './support/proxy.js';
import { numbered, scenario } from './support/scenario.js';

/** Takes one message out of a new queue, by every part of the library. */
async function works(sluice: Sluice): Promise<void> {
  await sluice.admin.createQueue('round trip');
  const producer = await sluice.producer('round trip');
  await producer.ingest(numbered(1));
  const consumer = await sluice.consumer('round trip');
  for await (const message of consumer.messages<{ n: number }>()) {
    expect(message.payload.n).toBe(0);
    expect(await message.archive()).toBe(true);
    break;
  }
}

test.each([
  ['single settings', (dsn: string, schema: string) => ({ dsn, schema })],
  ['a Config', (dsn: string, schema: string) => Config.fromDsnWithSchema(dsn, schema)],
])('connects with %s', async (_name, options: (dsn: string, schema: string) => ConnectOptions) => {
  const fresh = freshSchema();
  onTestFinished(() => fresh.drop());
  await using sluice = await connect(options(fresh.url, fresh.schema));
  await sluice.admin.install();
  await works(sluice);
});

test('connects with a URL alone', async () => {
  await using sluice = await connect(databaseUrl());
  expect((await sluice.admin.pool.query<{ one: number }>('select 1 as one')).rows).toEqual([{ one: 1 }]);
});

test('a pool of the caller is used and never ended, and its type parsers break nothing', async () => {
  const fresh = freshSchema();
  onTestFinished(() => fresh.drop());
  const garbled: Record<number, (text: string) => unknown> = {
    20: Number, // int8
    1114: () => 'a timestamp',
    1184: () => 'a timestamp with time zone',
    1700: () => 'a numeric',
  };
  const types = new pg.TypeOverrides();
  for (const [oid, parse] of Object.entries(garbled)) types.setTypeParser(Number(oid), parse);
  const pool = new pg.Pool({ connectionString: fresh.url, types });
  const sluice = await connect({ pool, schema: fresh.schema });
  await sluice.admin.install();
  await sluice.admin.createQueue('work');
  await pool.query(`select setval('${fresh.schema}.pgqrs_messages_id_seq', 9007199254740993)`);
  await (await sluice.producer('work')).ingest(numbered(2));
  const consumer = await sluice.consumer('work');
  const [message, other] = await consumer.dequeueMany(2);
  expect(message!.id).toBe('9007199254740994');
  expect(Math.abs(message!.enqueuedAt.getTime() - Date.now())).toBeLessThan(10_000);
  expect(await consumer.archiveMany([message!, other!.id])).toEqual([true, true]);
  await works(sluice);
  await sluice.close();
  await sluice.close();
  expect((await pool.query<{ one: number }>('select 1 as one')).rows).toEqual([{ one: 1 }]);
  await pool.end();
});

test('no URL is an error that says where to put one', async () => {
  await expect(connect(undefined)).rejects.toMatchObject({ code: 'MISSING_CONFIG' });
  await expect(connect({})).rejects.toMatchObject({ code: 'MISSING_CONFIG' });
  await expect(connect('http://localhost')).rejects.toMatchObject({ code: 'INVALID_OPTION' });
  await expect(connect(databaseUrl(), { listenUrl: 'db:5432' })).rejects.toMatchObject({
    code: 'INVALID_OPTION',
    field: 'listenUrl',
  });
  await expect(connect({ dsn: databaseUrl(), shema: 'x' } as ConnectOptions)).rejects.toThrow('schema');
});

test('what cannot be reached is a typed error in bounded time, and nothing shows the password', async () => {
  const silent = createServer(() => undefined).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const { port } = silent.address() as AddressInfo;
  onTestFinished(() => void silent.close());
  const secret = 'hunter2-secret';
  const wrong = (change: (url: URL) => void) => {
    const url = new URL(databaseUrl());
    url.password = secret;
    change(url);
    return url.href;
  };
  const urls = {
    'wrong password': wrong((url) => (url.username = 'nobody_by_that_name')),
    'no such database': wrong((url) => (url.pathname = '/no_such_database')),
    'nobody listens': wrong((url) => (url.port = '1')),
    'no such host': wrong((url) => (url.hostname = 'no-such-host.invalid')),
    'no answer': wrong((url) => (url.host = `127.0.0.1:${port}`)),
  };
  for (const [what, dsn] of Object.entries(urls)) {
    const error: unknown = await within(
      5_000,
      what,
      connect({ dsn, connectionTimeoutSeconds: 1 }).then(
        () => expect.unreachable(),
        (error: unknown) => error,
      ),
    );
    expect(error, what).toMatchObject({ code: 'CONNECTION_FAILED' });
    expect(`${inspect(error, { depth: 10, showHidden: true })} ${JSON.stringify(error)}`).not.toContain(
      secret,
    );
  }
});

test('nothing that is handed out shows the password', async () => {
  const { hostname, port, pathname } = new URL(databaseUrl());
  const role = `sluice_${randomBytes(4).toString('hex')}`;
  const secret = randomBytes(12).toString('hex');
  const s = await scenario();
  await s.pool.query(`create role ${role} login superuser password '${secret}'`);
  const dsn = `postgres://${role}:${secret}@${hostname}:${port}${pathname}`;
  const sluice = await connect({ dsn, schema: s.schema });
  for (const object of [sluice, sluice.admin, await sluice.consumer('work'), await sluice.producer('work')]) {
    expect(inspect(object, { depth: 10 })).not.toContain(secret);
  }
  await sluice.close();
  await s.pool.query(`drop role ${role}`);
});

test('after close every call is refused as closed', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const consumer = await s.consumer();
  await producer.ingest(numbered(1));
  const message = (await consumer.dequeue())!;
  await Promise.all([s.sluice.close(), s.sluice.close()]);
  await s.sluice.close();
  const calls = {
    producer: () => s.sluice.producer('work'),
    consumer: () => s.sluice.consumer('work'),
    getQueue: () => s.sluice.admin.getQueue('work'),
    createQueue: () => s.sluice.admin.createQueue('more'),
    install: () => s.sluice.admin.install(),
    dequeue: () => consumer.dequeue(),
    archive: () => message.archive(),
    status: () => consumer.status(),
    heartbeat: () => producer.heartbeat(),
    ingest: () => producer.ingest(numbered(1)),
  };
  for (const [name, call] of Object.entries(calls)) {
    await expect(call(), name).rejects.toMatchObject({ code: 'CLOSED' });
  }
});

test('close() ends whoever waits, and leaves no connection', async () => {
  const s = await scenario();
  const name = `waiting-${s.schema}`;
  const url = new URL(s.url);
  url.searchParams.set('application_name', name);
  const sluice = await connect({ dsn: url.href, schema: s.schema, pollIntervalMs: 3_600_000 });
  const consumer = await sluice.consumer('work');
  const listening = once(consumer, 'listening');
  const reading = (async () => {
    for await (const message of consumer.messages()) expect(message).toBeUndefined();
  })();
  await listening;
  await within(3_000, 'close', sluice.close());
  await within(1_000, 'the reader', reading);
  await eventually('no connection', async () => {
    const { rows } = await s.pool.query('select from pg_stat_activity where application_name = $1', [name]);
    return rows.length === 0;
  });
});

test('close() leaves no registration behind that was under way: its name is free at once', async () => {
  const s = await scenario();
  for (let round = 0; round < 8; round++) {
    const closing = await connect({ dsn: s.url, schema: s.schema });
    const name = { hostname: 'host', port: 1 + round };
    const registering = round % 2 ? closing.consumer('work', name) : closing.producer('work', name);
    const outcome = registering.then(
      () => 'registered', // it was quicker, and is closed like all others
      (error: unknown) => (error as { code: string }).code,
    );
    // At a later moment of it each time: a statement takes about as long as one of its own.
    for (let trip = 0; trip < round; trip++) await s.pool.query('select 1');
    await closing.close();
    expect(['registered', 'CLOSED']).toContain(await outcome);
    await (await s.producer(name)).close();
  }
});

test('who registers while it closes is closed as well', async () => {
  const s = await scenario();
  const results = await Promise.allSettled([
    s.sluice.consumer('work'),
    s.sluice.producer('work'),
    s.sluice.close(),
  ]);
  expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'fulfilled']);
  for (const result of results.slice(0, 2)) expect(result).toMatchObject({ reason: { code: 'CLOSED' } });
});

test('notifications may take another way than the rest', async () => {
  const s = await scenario();
  // Like a pooler in transaction mode: no notification comes through.
  const pooler = await startProxy(s.url);
  pooler.judge = ({ from, data }) => (from === 'server' && data.includes('sluice_') ? 'drop' : 'pass');
  const settings = { dsn: pooler.url, schema: s.schema, pollIntervalMs: 3_600_000 };
  const sluice = await connect(settings, { listenUrl: s.url });
  onTestFinished(async () => {
    await sluice.close();
    await pooler[Symbol.asyncDispose]();
  });
  const consumer = await sluice.consumer('work');
  const messages = consumer.messages<{ n: number }>();
  const message = once(messages, 'data') as Promise<[{ payload: { n: number } }]>;
  await within(5_000, 'listening', once(consumer, 'listening'));
  await (await s.producer()).ingest(numbered(1));
  expect((await within(5_000, 'the message', message))[0].payload.n).toBe(0);
});

test('a consumer that cannot hear polls', async () => {
  const s = await scenario();
  const pooler = await startProxy(s.url);
  pooler.judge = ({ from, data }) => (from === 'server' && data.includes('sluice_') ? 'drop' : 'pass');
  const sluice = await connect({ dsn: pooler.url, schema: s.schema, pollIntervalMs: 50 });
  onTestFinished(async () => {
    await sluice.close();
    await pooler[Symbol.asyncDispose]();
  });
  const consumer = await sluice.consumer('work');
  const deaf = once(consumer, 'deaf');
  const message = once(consumer.messages(), 'data');
  await within(10_000, 'deafness', deaf);
  await (await s.producer()).ingest(numbered(1));
  await within(5_000, 'the message', message);
});
