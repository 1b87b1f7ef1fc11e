import { once } from 'node:events';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { behindProxy, closed, counted, numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { asksToCommit, saysCommitted } from '../support/proxy.js';
import { numbered, type Scenario } from '../support/scenario.js';

const NAME = 'load';
const QUICK = { batchSize: 50, lingerMs: 5, retryBaseMs: 1, retryMaxMs: 50 };
const RESUMED = { ...QUICK, resume: NAME };

/** A stage with 100 committed rows of the stream. */
async function stage(settings?: Parameters<typeof behindProxy>[0]) {
  const s = await behindProxy(settings);
  await s.through.ingest([...numbered(100)], RESUMED);
  const { pool } = s.sluiceThrough.admin;
  const noClientHeld = () =>
    eventually(
      'the pool to be whole again',
      () => pool.totalCount === pool.idleCount && pool.waitingCount === 0,
    );
  const run = async () => (await s.sluice.admin.getStream(NAME))!.run;
  return { ...s, noClientHeld, run };
}

/** A transaction that holds the ledger's row until it is told to let go. */
async function holdRow({ url, schema }: Scenario): Promise<() => Promise<void>> {
  const client = new pg.Client(url);
  client.on('error', () => undefined);
  await client.connect();
  onTestFinished(() => client.end().catch(() => undefined));
  await client.query('begin');
  await client.query(`select from ${schema}.sluice_streams where name = '${NAME}' for update`);
  return async () => {
    await client.query('rollback');
  };
}

type Taken = (error: Error | undefined, client: pg.PoolClient | undefined) => void;

test.each([
  ['a name', { resume: NAME }],
  ['no name', {}],
])('a stream with %s opens as soon as a server that is away is back', async (_kind, resume) => {
  const s = await stage();
  s.proxy.door = 'shut';
  s.proxy.cutAll();
  const stream = s.through.writable({ ...QUICK, ...resume, retries: 1_000 });
  const events = counted(stream);
  const refused = new Promise<void>((resolve) => {
    let tries = 0;
    const pool = s.sluiceThrough.admin.pool;
    const connect = pool.connect.bind(pool) as (callback: Taken) => void;
    pool.connect = ((callback: Taken) =>
      connect((error, client) => {
        if (error && ++tries === 5) resolve();
        callback(error, client);
      })) as never;
  });
  await within(10_000, 'five refusals', refused);
  expect(events).toMatchObject({ error: 0, close: 0 });
  s.proxy.door = 'open';
  expect(await within(10_000, 'the stream', stream.resumeFrom)).toBe('resume' in resume ? '100' : undefined);
  for (const item of numbered(50, 100)) stream.write(item);
  stream.end();
  await closed(stream);
  expect(events).toMatchObject({ finish: 1, error: 0, close: 1 });
  expect(await s.delivered()).toEqual(numbers(150));
  await s.noClientHeld();
});

test('an answer that is lost when the stream opens is asked for again', async () => {
  const s = await stage();
  let lost = 0;
  s.proxy.judge = (bytes) => {
    if (bytes.from === 'client' && bytes.data.includes('sluice:resume_stream'))
      bytes.link.notes.add('opening');
    return bytes.from === 'server' && bytes.link.notes.has('opening') && ++lost <= 2 ? 'cut' : 'pass';
  };
  const summary = await within(10_000, 'ingest()', s.through.ingest([...numbered(150)], RESUMED));
  expect(lost).toBeGreaterThan(2);
  expect(summary).toMatchObject({ committed: 50 });
  expect(await s.delivered()).toEqual(numbers(150));
});

test.each([
  ['that stays away', 'shut', 'CONNECTION_FAILED'],
  ['that accepts and says nothing', 'hole', 'TIMEOUT'],
] as const)('a server %s ends it, within its time, and leaves nothing behind', async (_kind, door, code) => {
  const s = await stage();
  s.proxy.door = door;
  s.proxy.cutAll();
  const began = performance.now();
  const options = { ...RESUMED, batchTimeoutMs: 600, retries: door === 'shut' ? 3 : 1_000 };
  const stream = s.through.writable(options);
  const events = counted(stream);
  await expect(stream.resumeFrom).rejects.toMatchObject({ code });
  await closed(stream);
  expect(performance.now() - began).toBeLessThan(3_000);
  expect(events).toMatchObject({ finish: 0, error: 1, close: 1, reason: { code } });
  s.proxy.door = 'open';
  s.proxy.cutAll();
  expect(await s.run()).toBe(1);
});

test('a connection that goes silent in the middle of opening ends it in time; another one opens it', async () => {
  const s = await stage();
  s.proxy.judge = ({ data }) => (data.includes('sluice:resume_stream') ? 'hole' : 'pass');
  const stream = s.through.writable({ ...RESUMED, batchTimeoutMs: 300 });
  const events = counted(stream);
  await within(5_000, 'the end', closed(stream));
  expect(events).toMatchObject({ error: 1, close: 1, reason: { code: 'TIMEOUT', message: 'opening the stream took longer than 300 ms' } }); // prettier-ignore
  s.proxy.judge = () => 'pass';
  await s.through.ingest([...numbered(150)], RESUMED);
  expect(await s.delivered()).toEqual(numbers(150));
  await s.noClientHeld();
});

test('while somebody holds the row it does not open, ends in time, and leaves nobody waiting who opens it later', async () => {
  const s = await stage();
  const letGo = await holdRow(s);
  const waiting = async () => {
    const { rows } = await s.pool.query<{ n: number }>(
      `select count(*)::int as n from pg_stat_activity
       where wait_event_type = 'Lock' and query like '%resume_stream%${s.schema}%' and pid <> pg_backend_pid()`,
    );
    return rows[0]!.n;
  };
  for (let n = 0; n < 3; n++) {
    const stream = s.through.writable({ ...RESUMED, batchTimeoutMs: 400 });
    const events = counted(stream);
    await eventually('it waits for the row', async () => (await waiting()) > 0 || stream.destroyed);
    await within(5_000, 'the end', closed(stream));
    expect(events).toMatchObject({ finish: 0, error: 1, close: 1, reason: { transient: true } });
    expect(['TIMEOUT', 'DATABASE_ERROR']).toContain(events.reason?.code);
  }
  await eventually('nobody waits', async () => (await waiting()) === 0, 3_000);

  // One that has the time gets it as soon as it is free.
  const stream = s.through.writable(RESUMED);
  await eventually('it waits for the row', async () => (await waiting()) > 0);
  await letGo();
  expect(await within(5_000, 'opening', stream.resumeFrom)).toBe('100');
  // Those that had given up did not open it, and did not fence anybody.
  expect(await s.run()).toBe(2);
  await pipeline(Readable.from(numbered(50, 100)), stream);
  expect(await s.run()).toBe(2);
  expect(await s.delivered()).toEqual(numbers(150));
  await s.noClientHeld();
});

test('an abort, or the end of its producer, ends a stream that waits to be opened', async () => {
  const s = await stage();
  await holdRow(s);
  const ending = new AbortController();
  const aborted = counted(s.through.writable({ ...RESUMED, signal: ending.signal }));
  const stream = s.through.writable(RESUMED);
  const ended = counted(stream);
  ending.abort();
  await within(5_000, 'close()', s.through.close());
  await closed(stream);
  expect(aborted).toMatchObject({ finish: 0, error: 1, close: 1, reason: { name: 'AbortError' } });
  expect(ended).toMatchObject({ finish: 0, error: 1, close: 1, reason: { code: 'CLOSED' } });
  await expect(stream.resumeFrom).rejects.toMatchObject({ code: 'CLOSED' });
  await s.noClientHeld();
});

test.each([
  ['did not reach the server', asksToCommit, 150],
  ['was done, but not answered', saysCommitted, 200],
])(
  'after a run whose connection fell silent with a COMMIT that %s, the next one settles it',
  async (_what, moment, from) => {
    const s = await stage();
    let silent = false;
    let seen = 0;
    s.proxy.judge = (bytes) => {
      // From then on nothing of the first run gets through, on whatever connection.
      if (!silent && moment(bytes) && ++seen === 2) silent = true;
      return silent ? 'hole' : 'pass';
    };
    const first = s.through.writable({ ...RESUMED, concurrency: 2, batchTimeoutMs: 3_600_000 });
    const events = counted(first);
    for (const item of numbered(1_000, 100)) first.write(item);
    await eventually('silence', () => silent);

    const second = (await s.producer()).writable(RESUMED);
    expect(await within(10_000, 'opening', second.resumeFrom)).toBe(String(from));
    await pipeline(Readable.from(numbered(2_000 - from, from)), second);
    expect(await s.delivered()).toEqual(numbers(2_000));

    // The first one hears from the server again, much later.
    s.proxy.judge = () => 'pass';
    s.proxy.cutAll();
    if (!first.closed)
      await within(
        20_000,
        'the end of the first',
        once(first, 'close').catch(() => undefined),
      );
    expect(events).toMatchObject({ finish: 0, error: 1, reason: { code: 'STREAM_FENCED' } });
    expect(await s.delivered()).toEqual(numbers(2_000));
    await s.noClientHeld();
  },
);
