// Long because every way out of the stream is counted here, all in the same terms.
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { Config, Producer } from '../../src/index.js';
import type { ProducerStream } from '../../streams/producer-stream.js';
import { eventually, within } from '../support/eventually.js';
import { asksToCommit, sendsRows } from '../support/proxy.js';
import { numbered, type Scenario, scenario } from '../support/scenario.js';
import { behindProxy, closed, counted, type Events, expectNothingLeft, numbers } from './support.js';

/** Two of them are in flight while a third fills. */
const OPTIONS = { batchSize: 100, lingerMs: 60_000, retryBaseMs: 1, retryMaxMs: 10 };

/** The table holds an exact prefix of the source, and the stream says how long it is. */
async function expectPrefix(
  test: Scenario,
  stream: ProducerStream<unknown>,
  { reason }: Events,
): Promise<number> {
  const delivered = await test.delivered();
  expect(delivered).toEqual(numbers(delivered.length));
  expect(stream.stats.committed).toBe(delivered.length);
  if (reason?.progress) expect(reason.progress.committed).toBe(delivered.length);
  return delivered.length;
}

/** A stream that is fed without end, some batches on its way. */
async function underLoad(test: Scenario, options: object = {}) {
  const stream = (await test.producer()).writable({ ...OPTIONS, ...options });
  const events = counted(stream);
  const loaded = pipeline(Readable.from(numbered(1_000_000)), stream).catch(
    (error: unknown) => error as Error,
  );
  await eventually('some batches', () => stream.stats.batches >= 3);
  return { stream, events, loaded };
}

test('end: finish and close once, all rows committed', async () => {
  const test = await scenario();
  const stream = (await test.producer()).writable(OPTIONS);
  const events = counted(stream);
  await pipeline(Readable.from(numbered(1_050)), stream);
  expect(events).toMatchObject({ finish: 1, close: 1, error: 0 });
  expect(await expectPrefix(test, stream, events)).toBe(1_050);
  await expectNothingLeft(test);
});

test('end without an item: finish and close once, nothing sent', async () => {
  const test = await scenario();
  const stream = (await test.producer()).writable();
  const events = counted(stream);
  stream.end();
  await closed(stream);
  expect(events).toMatchObject({ finish: 1, close: 1, error: 0 });
  expect(stream.stats).toMatchObject({ accepted: 0, batches: 0, rowsPerSecond: 0 });
  await expectNothingLeft(test);
});

test('end twice: finish once', async () => {
  const test = await scenario();
  const stream = (await test.producer()).writable(OPTIONS);
  const events = counted(stream);
  stream.write({ n: 0 });
  stream.end();
  stream.end();
  await closed(stream);
  expect(events).toMatchObject({ finish: 1, close: 1, error: 0 });
  expect(await expectPrefix(test, stream, events)).toBe(1);
});

test('write after end: one error, and still a prefix', async () => {
  const test = await scenario();
  const stream = (await test.producer()).writable(OPTIONS);
  const events = counted(stream);
  for (const item of numbered(250)) stream.write(item);
  stream.end();
  stream.write({ n: 250 });
  await closed(stream);
  expect(events).toMatchObject({
    finish: 0,
    close: 1,
    error: 1,
    reason: { code: 'ERR_STREAM_WRITE_AFTER_END' },
  });
  await expectPrefix(test, stream, events);
  await expectNothingLeft(test);
});

test('an error of the source: one error, the same one', async () => {
  const test = await scenario();
  const stream = (await test.producer()).writable(OPTIONS);
  const events = counted(stream);
  const broken = new Error('the source broke');
  const source = function* () {
    yield* numbered(750);
    throw broken;
  };
  await expect(pipeline(Readable.from(source()), stream)).rejects.toBe(broken);
  await closed(stream);
  expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason: broken });
  await expectPrefix(test, stream, events);
  await expectNothingLeft(test);
});

test.each(['error', 'none'])('destroy twice in the middle (with %s): close once', async (how) => {
  const test = await scenario();
  const { stream, events, loaded } = await underLoad(test);
  const reason = how === 'error' ? new Error('enough') : undefined;
  stream.destroy(reason);
  stream.destroy(new Error('again'));
  await closed(stream);
  await loaded;
  expect(events).toMatchObject({ finish: 0, close: 1, error: reason ? 1 : 0, reason });
  expect(await expectPrefix(test, stream, events)).toBeGreaterThanOrEqual(300);
  await expectNothingLeft(test);
});

test('destroy lets a COMMIT that is on its way finish', async () => {
  const behind = await behindProxy();
  const stream = behind.through.writable({ ...OPTIONS, concurrency: 1 });
  const events = counted(stream);
  let commits = 0;
  behind.proxy.judge = (bytes) => {
    if (asksToCommit(bytes) && ++commits === 3) stream.destroy();
    return 'pass';
  };
  for (const item of numbered(1_000)) stream.write(item);
  await closed(stream);
  expect(events).toMatchObject({ finish: 0, close: 1, error: 0 });
  expect(stream.stats.batches).toBe(3);
  expect(await expectPrefix(behind, stream, events)).toBe(300);
  await expectNothingLeft(behind, behind.sluiceThrough);
});

test('destroy after the end changes nothing', async () => {
  const test = await scenario();
  const stream = (await test.producer()).writable(OPTIONS);
  const events = counted(stream);
  await pipeline(Readable.from(numbered(150)), stream);
  stream.destroy(new Error('late'));
  expect(events).toMatchObject({ finish: 1, close: 1, error: 0 });
  expect(await expectPrefix(test, stream, events)).toBe(150);
});

test.each(['before', 'during', 'after'])('a signal that aborts %s the load', async (when) => {
  const test = await scenario();
  const abort = new AbortController();
  if (when === 'before') abort.abort(new Error('never'));
  const stream = (await test.producer()).writable({ ...OPTIONS, signal: abort.signal });
  const events = counted(stream);
  const loaded = pipeline(Readable.from(numbered(when === 'after' ? 500 : 1_000_000)), stream).then(
    () => 'done',
    (error: unknown) => (error as Error).name,
  );
  if (when === 'during') await eventually('some batches', () => stream.stats.batches >= 3);
  if (when === 'after') await loaded;
  abort.abort(new Error('enough'));
  await closed(stream);
  const well = when === 'after';
  expect(await loaded).toBe(well ? 'done' : 'AbortError');
  expect(events).toMatchObject({ finish: well ? 1 : 0, close: 1, error: well ? 0 : 1 });
  const rows = await expectPrefix(test, stream, events);
  if (when === 'before') expect(rows).toBe(0);
  if (when === 'after') expect(rows).toBe(500);
  if (when === 'during') expect(events.reason?.cause).toMatchObject({ message: 'enough' });
  await expectNothingLeft(test);
});

test.each(['gone', 'silent'])(
  'destroy during construction while the server is %s: no hang, no client held',
  async (how) => {
    const behind = await behindProxy();
    const { proxy, through, sluiceThrough } = behind;
    const asked = { toOpen: false };
    proxy.judge = ({ data }) => {
      asked.toOpen ||= data.includes('sluice:open_stream');
      return 'hole';
    };
    if (how === 'gone') {
      proxy.door = 'shut';
      proxy.cutAll();
    }
    const stream = through.writable();
    const events = counted(stream);
    stream.write({ n: 0 });
    if (how === 'silent') await eventually('the stream to open', () => asked.toOpen);
    stream.destroy();
    await within(8_000, 'the stream', closed(stream));
    expect(events).toMatchObject({ finish: 0, close: 1, error: 0 });
    await eventually('the pool to be whole', () => {
      const { pool } = sluiceThrough.admin;
      return pool.totalCount === pool.idleCount && pool.waitingCount === 0;
    });
    expect(await behind.count()).toBe(0);
  },
);

test('ingest() rejects with the error of its source when nothing is on its way any more', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const source = function* () {
    yield* numbered(950);
    throw new Error('the source broke');
  };
  await expect(producer.ingest(source(), OPTIONS)).rejects.toThrow('the source broke');
  await expectNothingLeft(test);
  const delivered = await test.delivered();
  expect(delivered).toEqual(numbers(delivered.length));
});

test('a server that is silent when the stream opens ends it at the deadline', async () => {
  const behind = await behindProxy();
  behind.proxy.judge = () => 'hole';
  const stream = behind.through.writable({ batchTimeoutMs: 200 });
  const events = counted(stream);
  stream.write({ n: 0 });
  await closed(stream);
  expect(events).toMatchObject({
    finish: 0,
    close: 1,
    error: 1,
    reason: { code: 'TIMEOUT', message: 'opening the stream took longer than 200 ms' },
  });
  expect(await behind.count()).toBe(0);
});

test('a pool whose clients others keep for ever ends the stream at the deadline', async () => {
  const test = await scenario();
  const pool = new pg.Pool({ connectionString: test.url, max: 1 });
  onTestFinished(() => pool.end());
  const config = Config.fromDsnWithSchema(test.url, test.schema);
  const producer = await Producer.create({ pool, queue: test.queue, config });
  const kept = await pool.connect();
  const stream = producer.writable({ batchTimeoutMs: 100 });
  const events = counted(stream);
  await closed(stream);
  expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason: { code: 'TIMEOUT' } });
  kept.release();
  await eventually('the client that came too late to be given back', () => pool.idleCount === 1);
  expect(pool.waitingCount).toBe(0);
  await producer.close();
});

/** Ends the backends that take rows in for the test's schema just now. */
async function killBackends({ pool, schema }: Scenario): Promise<void> {
  await pool.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where query like '/* sluice:copy_messages */ copy "' || $1 || '"%' and state = 'active'`,
    [schema],
  );
}

test.each([10, 0])('backends that are killed in the middle of a COPY, with %i retries', async (retries) => {
  const test = await scenario();
  const { stream, events, loaded } = await underLoad(test, { retries, method: 'copy' });
  await eventually('a backend to be killed in time', async () => {
    await killBackends(test);
    return stream.stats.retries > 0 || stream.destroyed;
  });
  if (retries > 0) {
    const { batches } = stream.stats;
    await eventually('the load to go on', () => stream.stats.batches > batches + 5);
    stream.destroy();
  }
  await closed(stream);
  await loaded;
  expect(events).toMatchObject({ finish: 0, close: 1, error: retries > 0 ? 0 : 1 });
  await expectPrefix(test, stream, events);
  if (retries === 0) expect(['DATABASE_ERROR', 'CONNECTION_FAILED']).toContain(events.reason?.code);
  await expectNothingLeft(test);
});

test('a server that refuses a row while megabytes of the COPY are still to come: one error', async () => {
  const test = await scenario();
  const { pool, schema: s } = test;
  await pool.query(`
    create function ${s}.refuse() returns trigger language plpgsql as $$
    begin raise exception 'refused' using errcode = '23514'; end $$;
    create trigger refuse before insert on ${s}.pgqrs_messages for each row
      when ((new.payload->>'n')::int = 20) execute function ${s}.refuse()`);
  const stream = (await test.producer()).writable({
    batchSize: 1_000,
    batchBytes: 64_000_000,
    method: 'copy',
  });
  const events = counted(stream);
  const text = 'x'.repeat(20_000);
  const items = numbers(2_000).map((n) => ({ n, text }));
  await pipeline(Readable.from(items), stream).catch(() => undefined);
  await closed(stream);
  expect(events).toMatchObject({
    finish: 0,
    close: 1,
    error: 1,
    reason: { code: 'PAYLOAD_INVALID', index: 20, cause: { code: 'DATABASE_ERROR', sqlState: '23514' } },
  });
  expect(await expectPrefix(test, stream, events)).toBe(0);
  await expectNothingLeft(test);
});

test('the table goes missing: one error that says how to get it back', async () => {
  const test = await scenario();
  const { stream, events, loaded } = await underLoad(test);
  const table = `${test.schema}.pgqrs_messages`;
  await test.pool.query(`alter table ${table} rename to away`);
  await closed(stream);
  await test.pool.query(`alter table ${test.schema}.away rename to pgqrs_messages`);
  expect(await loaded).toBe(events.reason);
  expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason: { code: 'SCHEMA_NOT_INSTALLED' } });
  await expectPrefix(test, stream, events);
  await expectNothingLeft(test);
});

test('the queue is deleted: one error that names it', async () => {
  const test = await scenario();
  const { stream, events } = await underLoad(test);
  const s = test.schema;
  const client = await test.pool.connect();
  await client.query('begin');
  // Waits for the batches that have pinned the worker, which keeps its queue, and holds up the next ones.
  await client.query(`update ${s}.pgqrs_workers set queue_id = null`);
  const before = await client.query<{ count: number }>(`select count(*)::int from ${s}.pgqrs_messages`);
  await client.query(`delete from ${s}.pgqrs_messages`);
  await client.query(`delete from ${s}.pgqrs_queues`);
  await client.query('commit');
  client.release();
  await closed(stream);
  expect(events).toMatchObject({
    finish: 0,
    close: 1,
    error: 1,
    reason: { code: 'QUEUE_NOT_FOUND', queue: 'work' },
  });
  expect(events.reason?.progress?.committed).toBe(before.rows[0]?.count);
  expect(await test.count()).toBe(0);
  await expectNothingLeft(test);
});

test.each([
  ['queue', 'QUEUE_NOT_FOUND'],
  ['worker', 'WORKER_FENCED'],
])('the %s is gone before the stream opens: one error that says so', async (what, code) => {
  const test = await scenario();
  const producer = await test.producer();
  await test.pool.query(`delete from ${test.schema}.pgqrs_workers`);
  if (what === 'queue') await test.pool.query(`delete from ${test.schema}.pgqrs_queues`);
  const stream = producer.writable();
  const events = counted(stream);
  stream.write({ n: 0 });
  await closed(stream);
  expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason: { code } });
  await expectNothingLeft(test);
});

test('another process takes the worker over: one error, and nothing more is written as that worker', async () => {
  const test = await scenario();
  const { stream, events } = await underLoad(test);
  await test.pool.query(`update ${test.schema}.pgqrs_workers set started_at = now()`);
  await closed(stream);
  expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason: { code: 'WORKER_FENCED' } });
  await expectPrefix(test, stream, events);
  await expectNothingLeft(test);
});

test('close() of the producer ends its open streams, resolves twice, and lets no new one open', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const streams = [1, 2].map(() => producer.writable(OPTIONS));
  const events = streams.map(counted);
  for (const stream of streams) for (const item of numbered(1_000)) stream.write(item);
  await eventually('a batch', () => streams.every(({ stats }) => stats.batches > 0));
  await within(15_000, 'closing', Promise.all([producer.close(), producer.close()]));
  for (const one of events) {
    expect(one).toMatchObject({ finish: 0, close: 1, error: 1, reason: { code: 'CLOSED' } });
  }
  expect(events.reduce((sum, { reason }) => sum + reason!.progress!.committed, 0)).toBe(await test.count());
  expect(() => producer.writable()).toThrow('closed');
  await expectNothingLeft(test);
});

test('close() of the producer does not wait for a server that has gone silent in the middle of a COPY', async () => {
  const behind = await behindProxy();
  const { proxy, through } = behind;
  let copies = 0;
  proxy.judge = (bytes) => (sendsRows(bytes) && ++copies > 3 ? 'hole' : 'pass');
  const stream = through.writable(OPTIONS);
  const events = counted(stream);
  for (const item of numbered(1_000)) stream.write(item);
  await eventually('silence', () => copies > 3);
  await within(5_000, 'closing', through.close());
  expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason: { code: 'CLOSED' } });
  expect(await expectPrefix(behind, stream, events)).toBe(300);
  await expectNothingLeft(behind, behind.sluiceThrough);
});
