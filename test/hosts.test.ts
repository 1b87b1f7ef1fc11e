import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import pg from 'pg';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { Db, type DbOptions } from '../src/db.js';
import { connect } from '../src/index.js';
import { eventually, within } from './support/eventually.js';
import { type Proxy, startProxy } from './support/proxy.js';
import { dsnOf, type Node, startPrimary, startReplica } from './support/replica.js';

let primary: Node;
let standby: Node;

const cleanUps: (() => Promise<void>)[] = [];

beforeAll(async () => {
  primary = await startPrimary((cleanUp) => cleanUps.push(cleanUp));
  standby = await startReplica(primary, 'standby', (cleanUp) => cleanUps.push(cleanUp));
});

afterAll(async () => {
  await Promise.all(cleanUps.map((cleanUp) => cleanUp()));
});

test('each target takes the first host that libpq would take', async () => {
  const taken = async (target: string) => {
    const both = [standby, primary].map(({ port }) => String(port));
    const { port } = await whereabouts(open(dsnOf(standby, primary), { target }));
    return ['standby', 'primary'][both.indexOf(port)];
  };
  expect(await taken('')).toBe('primary');
  expect(await taken('read-write')).toBe('primary');
  expect(await taken('primary')).toBe('primary');
  expect(await taken('standby')).toBe('standby');
  expect(await taken('read-only')).toBe('standby');
  expect(await taken('any')).toBe('standby');
  expect(await taken('prefer-standby')).toBe('standby');
  const alone = dsnOf(primary);
  expect(await whereabouts(open(alone, { target: 'prefer-standby' }))).toMatchObject({ standby: false });
  await expect(whereabouts(open(alone, { target: 'standby', connectTimeoutMs: 500 }))).rejects.toMatchObject({
    code: 'CONNECTION_FAILED',
    transient: true,
    message: 'no host can be used as standby: 127.0.0.1 is a primary',
  });
});

test('pool, small pool and a Db over the same pool go to one host, and close() leaves no connection', async () => {
  const [toStandby, toPrimary] = [await proxied(standby), await proxied(primary)];
  const db = open(dsnOf(toStandby, toPrimary));
  const over = Db.over(db.pool, 'public');
  const session = await db.session();
  const question = 'select pg_is_in_recovery() as standby';
  for (const on of [db, db.urgent, over, over.urgent, session])
    expect(await on.query(question)).toEqual([{ standby: false }]);
  expect((await db.pool.query(question)).rows).toEqual([{ standby: false }]);
  session.release();
  await eventually('the probes are gone', () => toStandby.links.size === 0);
  await eventually('two of the pool, one of each small pool', () => toPrimary.links.size === 4);
  await over.close();
  await db.close();
  await eventually('no connection', () => toPrimary.links.size === 0);
});

test('a host that is down is passed over at once, one that is silent after its time, and then not waited for', async () => {
  const silent = await proxied(primary);
  silent.door = 'hole';
  const db = open(dsnOf(await refusing(), silent, primary), { parameters: 'connect_timeout=0.4' });
  const first = await timed(whereabouts(db));
  expect(first.result.port).toBe(String(primary.port));
  expect(first.ms).toBeGreaterThan(390);
  await forgotten();
  const second = await timed(db.session());
  const third = await timed(db.session());
  expect(second.ms + third.ms).toBeLessThan(390);
  second.result.release();
  third.result.release();
});

test('a host is waited for until it takes writes', async () => {
  await readOnly('on');
  const db = open(dsnOf(standby, primary));
  const answer = whereabouts(db);
  const early = open(dsnOf(standby, primary), { connectTimeoutMs: 400 });
  await expect(whereabouts(early)).rejects.toMatchObject({
    code: 'CONNECTION_FAILED',
    transient: true,
    message: `no host can be used as read-write: 127.0.0.1:${standby.port} is a standby; 127.0.0.1:${primary.port} is read-only by default`,
  });
  expect(await whereabouts(open(dsnOf(primary, standby), { target: 'read-only' }))).toMatchObject({
    port: String(primary.port),
  });
  expect(await whereabouts(open(dsnOf(primary, standby), { target: 'primary' }))).toMatchObject({
    port: String(primary.port),
  });
  await readOnly('off');
  expect(await within(5_000, 'the answer', answer)).toMatchObject({ port: String(primary.port) });
});

test('a server that takes no writes any more is left: a passing error, and no pooled client stays', async () => {
  await primary.query('create table if not exists written (n int)');
  const toPrimary = await proxied(primary);
  const db = open(dsnOf(standby, toPrimary));
  const [used, idle] = [await db.session(), await db.session()];
  idle.release();
  expect(toPrimary.links.size).toBeGreaterThanOrEqual(2);
  await readOnly('on');
  const write = used.script('insert into written values (1)');
  await expect(write).rejects.toMatchObject({ code: 'NOT_PRIMARY', transient: true });
  await used.rollback();
  await eventually('all connections are given up', () => db.pool.totalCount === 0);
  const back = db.query('insert into written values (2)');
  await readOnly('off');
  await within(5_000, 'the write', back);
  expect(await primary.query('table written')).toEqual([{ n: 2 }]);
});

test('an enqueue that such a server refuses is made again as soon as one takes it, and is never ambiguous', async () => {
  const sluice = await connect(dsnOf(standby, primary));
  onTestFinished(() => sluice.close());
  await sluice.admin.install();
  await sluice.admin.createQueue('refused', { ifExists: 'open' });
  const producer = await sluice.producer('refused');
  await producer.enqueue({ n: 1 });
  await readOnly('on');
  const enqueued = producer.enqueue({ n: 2 });
  await eventually('the connection is given up', () => sluice.admin.pool.idleCount === 0);
  await readOnly('off');
  expect(await within(10_000, 'the enqueue', enqueued)).toMatchObject({ payload: { n: 2 } });
  expect(await sluice.admin.queueMetrics('refused')).toMatchObject({ ready: 2 });
});

test('one host keeps its error for a read-only session, and a host that may be any one too', async () => {
  for (const dsn of [primary.url, `${primary.url}?target_session_attrs=any`]) {
    const session = await open(dsn).session();
    await session.script('begin read only');
    await expect(session.script('create table forbidden (n int)')).rejects.toMatchObject({
      code: 'PERMISSION_DENIED',
    });
    await session.rollback();
  }
});

test('hosts of two databases are refused, and the one in use is not left for another database', async () => {
  const stranger = await startPrimary();
  const { username, password } = new URL(primary.url);
  await stranger.query(`alter role ${username} password '${password}'`);
  await expect(whereabouts(open(dsnOf(primary, stranger)))).rejects.toMatchObject({
    code: 'CONNECTION_FAILED',
    transient: false,
    message: expect.stringMatching(
      /^the hosts are not of one database: .* is of database cluster \d+; .* is of database cluster \d+$/,
    ) as string,
  });
  const [toPrimary, toStranger] = [await proxied(primary), await proxied(stranger)];
  toStranger.door = 'shut';
  const db = open(dsnOf(toPrimary, toStranger), { connectTimeoutMs: 1_500 });
  await whereabouts(db);
  toStranger.door = 'open';
  toPrimary.door = 'shut';
  toPrimary.cutAll();
  await eventually('the loss is noticed', () => db.pool.totalCount === 0);
  await expect(whereabouts(db)).rejects.toThrow('belongs to another database cluster than the one in use');
});

test('a role that may not read the control file is told the role of the server all the same', async () => {
  await primary.query(`create role plain login password 'plain'`);
  onTestFinished(async () => {
    await primary.query('grant execute on function pg_control_system() to public');
  });
  const dsn = dsnOf(standby, primary).replace(/\/\/.*@/, '//plain:plain@');
  expect(await whereabouts(open(dsn))).toMatchObject({ standby: false });
  await primary.query('revoke execute on function pg_control_system() from public');
  expect(await whereabouts(open(dsn))).toMatchObject({ standby: false });
});

test('what no host will ever accept is refused at once, with the reason of each and no password', async () => {
  const dsn = dsnOf(primary, standby).replace(/:[^:]*@/, ':S3cr3t@');
  const { result, ms } = await timed(connect(dsn).catch((error: unknown) => error as Error));
  expect(result).toMatchObject({ code: 'CONNECTION_FAILED', transient: false });
  expect((result as Error).message).toMatch(
    /password authentication failed.*; .*password authentication failed/,
  );
  expect((result as Error).message).not.toContain('S3cr3t');
  expect(ms).toBeLessThan(5_000);
});

test('no host at all is an error at the deadline, and close() ends the wait', async () => {
  const [one, other] = [await refusing(), await refusing()];
  const late = await timed(whereabouts(open(dsnOf(one, other), { connectTimeoutMs: 500 })).catch(String));
  expect(late.result).toMatch(/no host can be used as read-write: .*ECONNREFUSED.*; .*ECONNREFUSED/);
  expect(late.ms).toBeLessThan(1_000);
  const db = open(dsnOf(one, other), { connectTimeoutMs: 60_000 });
  const waiting = whereabouts(db).catch((error: unknown) => error);
  await forgotten();
  await within(1_000, 'close()', db.close());
  expect(await within(1_000, 'the query', waiting)).toMatchObject({ code: 'CLOSED' });
});

test('what is shown of a Db holds no password', async () => {
  const db = open(dsnOf(primary, standby));
  await whereabouts(db);
  const { inspect } = await import('node:util');
  expect(inspect(db.pool.options, { depth: 10 })).not.toContain(new URL(primary.url).password);
  expect(JSON.stringify(db.pool.options)).not.toContain(new URL(primary.url).password);
});

test('a listener with a URL of several hosts hears, and moves when its connection is lost', async () => {
  const toPrimary = await proxied(primary);
  const sluice = await connect(primary.url, { listenUrl: dsnOf(standby, toPrimary) });
  onTestFinished(() => sluice.close());
  await sluice.admin.install();
  await sluice.admin.createQueue('heard', { ifExists: 'open' });
  const consumer = await sluice.consumer('heard', { pollIntervalMs: 60_000 });
  const listening = once(consumer, 'listening');
  const received = (async () => {
    const ns: number[] = [];
    for await (const { payload } of consumer.messages<{ n: number }>()) {
      if (ns.push(payload.n) === 2) break;
    }
    return ns;
  })();
  await within(10_000, 'LISTEN', listening);
  const producer = await sluice.producer('heard');
  await producer.enqueue({ n: 1 });
  toPrimary.cutAll();
  await within(10_000, 'LISTEN again', once(consumer, 'listening'));
  await producer.enqueue({ n: 2 });
  expect(await within(10_000, 'both', received)).toEqual([1, 2]);
});

interface OpenOptions extends Partial<DbOptions> {
  target?: string;
  parameters?: string;
}

function open(dsn: string, { target = '', parameters = '', ...options }: OpenOptions = {}): Db {
  const query = [target && `target_session_attrs=${target}`, parameters].filter(Boolean).join('&');
  const db = Db.open(query ? `${dsn}?${query}` : dsn, {
    schema: 'public',
    maxConnections: 4,
    connectTimeoutMs: 10_000,
    ...options,
  });
  onTestFinished(() => db.close());
  return db;
}

async function whereabouts(db: Db): Promise<{ port: string; standby: boolean }> {
  const [row] = await db.query<{ port: string; standby: boolean }>(
    `select current_setting('port') as port, pg_is_in_recovery() as standby`,
  );
  return row!;
}

/** Sets what sessions of the primary are by default, in open ones too. */
async function readOnly(value: 'on' | 'off'): Promise<void> {
  await using client = await session(primary.url);
  await client.query('set default_transaction_read_only = off');
  await client.query(`alter system set default_transaction_read_only = ${value}`);
  await client.query('select pg_reload_conf()');
  if (value === 'on') onTestFinished(() => readOnly('off'));
  await eventually(`read-only ${value}`, async () => {
    await using other = await session(primary.url);
    const { rows } = await other.query<{ value: string }>(
      `select current_setting('default_transaction_read_only') as value`,
    );
    return rows[0]?.value === value;
  });
}

async function session(url: string) {
  const client = new pg.Client(url);
  await client.connect();
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() });
}

async function proxied(node: Node): Promise<Proxy> {
  const proxy = await startProxy(node.url);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  return proxy;
}

/** A place where nobody answers the door. */
async function refusing(): Promise<{ url: string }> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  const url = new URL(primary.url);
  url.port = String(port);
  return { url: url.href };
}

async function timed<T>(work: Promise<T>): Promise<{ result: T; ms: number }> {
  const start = performance.now();
  const result = await work;
  return { result, ms: performance.now() - start };
}

/** Until what was found about hosts is asked for again. */
async function forgotten(): Promise<void> {
  const start = performance.now();
  await eventually('what was found is too old', () => performance.now() - start > 1_050);
}
