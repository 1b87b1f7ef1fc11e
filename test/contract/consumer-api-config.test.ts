import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { Config, connect } from '../../src/index.js';
import { scenario } from '../support/scenario.js';
import { connected, enqueued } from './consumer-api.js';

/** A folder with this pgqrs.yaml, gone when the test is over. */
async function folder(yaml: string): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'pg-sluice-config-'));
  onTestFinished(() => rm(path, { recursive: true }));
  await writeFile(join(path, 'pgqrs.yaml'), yaml);
  return path;
}

test('47: a configuration comes from a DSN, a DSN and a schema, the environment, or a file', async () => {
  const s = await scenario();
  const { url, schema } = s;
  const path = await folder(`dsn: ${url}\nschema: ${schema}\n`);
  const configs = [
    Config.fromDsn(url, { schema }),
    Config.fromDsnWithSchema(url, schema),
    Config.fromEnv({ PGQRS_DSN: url, PGQRS_SCHEMA: schema }),
    await Config.fromFile(join(path, 'pgqrs.yaml')),
    await Config.load({ cwd: path, env: {} }),
  ];
  for (const config of configs) {
    const sluice = await connect(config);
    expect(await sluice.admin.listQueues()).toEqual([s.queue]);
    await sluice.close();
  }
  expect(Config.fromDsn(url).schema).toBe('public');
});

test('47: each setting by itself comes from the call, else the environment, else the file, else the defaults (deviation)', async () => {
  const cwd = await folder('dsn: postgres://file/db\nschema: file\nmax_read_ct: 7\nmax_connections: 3\n');
  const env = { PGQRS_SCHEMA: 'environment', PGQRS_MAX_READ_CT: '8' };
  const config = await Config.load({ cwd, env, maxReadCount: 9 });
  expect(config).toMatchObject({
    maxReadCount: 9, // the call
    schema: 'environment',
    dsn: 'postgres://file/db',
    maxConnections: 3,
    pollIntervalMs: 1_000, // nobody
  });
});

test('47: a setting that cannot be read is an error, never silently the default (deviation)', async () => {
  const PGQRS_DSN = 'postgres://host/db';
  const refused = (field: string) => ({
    code: 'INVALID_OPTION',
    field: expect.stringContaining(field) as string,
  });
  expect(() => Config.fromEnv({ PGQRS_DSN, PGQRS_MAX_READ_CT: 'many' })).toThrow(
    expect.objectContaining(refused('PGQRS_MAX_READ_CT')),
  );
  await expect(Config.load({ cwd: tmpdir(), env: { PGQRS_DSN, PGQRS_SCHEMA: '1st' } })).rejects.toMatchObject(
    refused('PGQRS_SCHEMA'),
  );
  // Also one that would be put into SQL.
  expect(() => Config.fromDsnWithSchema(PGQRS_DSN, 'a"; drop schema b; --')).toThrow(
    expect.objectContaining(refused('schema')),
  );
  expect(() => Config.fromEnv({})).toThrow(expect.objectContaining({ code: 'MISSING_CONFIG' }));
});

test('47: lock time, limit of deliveries and time for a connection are used, not only read (deviation)', async () => {
  const s = await scenario({ defaultLockTimeSeconds: 77, maxReadCount: 1 });
  await enqueued(s, 1);
  const consumer = await s.consumer();
  const message = (await consumer.dequeue())!;
  expect(Math.round((message.vt.getTime() - message.dequeuedAt!.getTime()) / 1_000)).toBe(77);
  await message.release();
  expect(await consumer.dequeue()).toBeUndefined();
  const nobody = await connect({ dsn: 'postgres://192.0.2.1:1/db', connectionTimeoutSeconds: 1 }).catch(
    (error: unknown) => error,
  );
  expect(nobody).toMatchObject({ code: 'CONNECTION_FAILED' });
});

test('48: the parameters of a DSN reach the server', async () => {
  const s = await scenario();
  const url = new URL(s.url);
  url.searchParams.set('application_name', 'the app');
  url.searchParams.set('options', '-c statement_timeout=12345 -c search_path=pg_catalog');
  url.searchParams.set('sslmode', 'disable');
  const sluice = await connected(s, url);
  const client = await sluice.admin.pool.connect();
  const { rows } = await client.query(
    `select current_setting('application_name') as name, current_setting('statement_timeout') as timeout,
       current_setting('search_path') as path`,
  );
  client.release();
  expect(rows).toEqual([{ name: 'the app', timeout: '12345ms', path: 'pg_catalog' }]);
});

test.each(['require', 'verify-full'])(
  '48: sslmode=%s never falls back to a connection without encryption',
  async (mode) => {
    const s = await scenario();
    const plain = new pg.Client(s.url);
    await plain.connect();
    const { rows } = await plain.query<{ ssl: string }>('show ssl');
    await plain.end();
    const url = new URL(s.url);
    url.searchParams.set('sslmode', mode);
    const outcome = await connect({ dsn: url.href, schema: s.schema }).then(
      async (sluice) => {
        const { rows: own } = await sluice.admin.pool.query<{ ssl: boolean }>(
          'select ssl from pg_stat_ssl where pid = pg_backend_pid()',
        );
        await sluice.close();
        return own[0]!.ssl;
      },
      (error: unknown) => error,
    );
    if (rows[0]!.ssl === 'off') expect(outcome).toMatchObject({ code: 'CONNECTION_FAILED' });
    else expect([true, expect.objectContaining({ code: 'CONNECTION_FAILED' })]).toContainEqual(outcome);
  },
);

// Through a real PgBouncer in transaction mode: test/pooler. Here what makes that possible.
test('48: nothing that is sent leaves a trace in the session that a pooler would hand to somebody else (deviation)', async () => {
  const s = await scenario();
  const url = new URL(s.url);
  url.searchParams.set('options', '-c search_path=pg_catalog'); // every name is qualified
  const sluice = await connected(s, url);
  const { admin } = sluice;
  const producer = await sluice.producer('work');
  await producer.batchEnqueue([1, 2, 3]);
  await producer.ingest([4, 5]);
  const consumer = await sluice.consumer('work');
  const messages = await consumer.dequeueMany(5);
  await messages[0]!.archive();
  await messages[1]!.delete();
  await messages[2]!.release();
  await messages[3]!.deadLetter('rejected');
  await messages[4]!.extendVisibility(1);
  await admin.sweepExhausted();
  await admin.archive('work').purge({ all: true });
  await admin.deadLetters('work').purge({ all: true });
  await admin.reclaim();
  await admin.install();
  await admin.verify();
  const clients = await Promise.all(Array.from({ length: 16 }, () => admin.pool.connect()));
  for (const client of clients) {
    const { rows } = await client.query<Record<string, unknown>>(
      `select current_setting('search_path') as path,
         (select count(*)::int from pg_settings where source = 'session' and context <> 'internal') as settings,
         (select count(*)::int from pg_locks where pid = pg_backend_pid() and locktype = 'advisory') as locks,
         (select count(*)::int from pg_listening_channels()) as channels,
         (select count(*)::int from pg_class where relpersistence = 't' and pg_table_is_visible(oid)) as tables`,
    );
    expect(rows).toEqual([{ path: 'pg_catalog', settings: 0, locks: 0, channels: 0, tables: 0 }]);
    client.release();
  }
});
