import { execFileSync } from 'node:child_process';
import { chown, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, onTestFinished, test } from 'vitest';
import { connect, DatabaseError, type Producer } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { startPrimary } from '../support/replica.js';
import { numbered, type Scenario, scenario } from '../support/scenario.js';
import { deliveredOf, expectFlawless, FULL, report } from '../support/total-queue.js';

const ROWS = FULL ? 300_000 : 15_000;
const BATCH_SIZE = 1_000;
const QUICK = { batchSize: BATCH_SIZE, lingerMs: 60_000, retryBaseMs: 1, retryMaxMs: 20 };
const RESUME = { ...QUICK, resume: 'load', retries: 2 };

/** Loads all that is not in, from where the stream says. */
async function load(producer: Producer, options: Parameters<Producer['writable']>[0]) {
  const stream = producer.writable(options);
  stream.on('error', () => undefined);
  const from = Number((await stream.resumeFrom) ?? 0);
  await within(60_000, 'the load', pipeline(Readable.from(numbered(ROWS - from, from)), stream));
  return { from, stats: stream.stats };
}

const stateOf = (error: Error) => (error instanceof DatabaseError ? error.sqlState : error.message);

const failure = (loading: Promise<unknown>) =>
  loading.then(
    () => undefined,
    (error: unknown) => error as DatabaseError,
  );

/** The stream failed with that error, and what is in is what it says; then it goes on, and all of it is in once. */
async function expectResumable(
  producer: Producer,
  queue: Parameters<typeof deliveredOf>[0],
  error: DatabaseError | undefined,
  sqlState: string,
  freeUp: () => Promise<void>,
): Promise<{ committed: number }> {
  expect(error).toMatchObject({ code: 'DATABASE_ERROR', sqlState });
  const { committed, position } = error!.progress!;
  expect(position).toBe(String(committed));
  expect(committed % BATCH_SIZE, 'half a batch').toBe(0);
  expectFlawless({ attempted: committed, acknowledged: committed, delivered: await deliveredOf(queue) });
  await freeUp();
  expect(await load(producer, RESUME)).toMatchObject({ from: committed });
  expectFlawless({ attempted: ROWS, acknowledged: ROWS, delivered: await deliveredOf(queue) });
  return { committed };
}

test('case 11: a disk that is full fails the stream with what is in, and it goes on when there is room', async (context) => {
  const disk = await mkdtemp(join(tmpdir(), 'sluice-disk-'));
  onTestFinished(() => rm(disk, { recursive: true, force: true }));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk], { stdio: 'ignore' });
  } catch {
    context.skip('needs the right to mount; the next test has the server pretend');
  }
  onTestFinished(() => void execFileSync('umount', ['-l', disk]));
  const server = await startPrimary();
  const [{ folder }] = (await server.query<{ folder: string }>(
    `select current_setting('data_directory') as folder`,
  )) as [{ folder: string }];
  const { uid, gid } = await stat(folder);
  await chown(disk, uid, gid);
  await server.query(`create tablespace small location '${disk}'`);
  const schema = 'disk_full';
  const sluice = await connect({ dsn: server.url, schema });
  onTestFinished(() => within(20_000, 'closing', sluice.close()).catch(() => undefined));
  await sluice.admin.install();
  await sluice.admin.createQueue('work');
  const producer = await sluice.producer('work');
  await server.query(`alter table ${schema}.pgqrs_messages set tablespace small`);

  const error = await failure(load(producer, RESUME));
  const queue = { pool: sluice.admin.pool, schema };
  const { committed } = await expectResumable(producer, queue, error, '53100', async () => {
    execFileSync('mount', ['-o', 'remount,size=256m', disk]);
    return Promise.resolve();
  });
  report('case 11', { what: 'disk full', rows: ROWS, committed });
  expect(committed).toBeGreaterThan(0);
});

/** Has every nth insert fail with that state, or all from the nth on until it is dropped. */
async function failing({ pool, schema }: Scenario, sqlState: string, when: string) {
  await pool.query(`
    create sequence ${schema}.inserts;
    create function ${schema}.fail() returns trigger language plpgsql as $$
    begin
      if nextval('${schema}.inserts') ${when} then raise exception 'as a test wants' using errcode = '${sqlState}'; end if;
      return null;
    end $$;
    create trigger fail after insert on ${schema}.pgqrs_messages
      for each statement execute function ${schema}.fail()`);
  return async () => {
    await pool.query(`drop trigger fail on ${schema}.pgqrs_messages`);
  };
}

const STATES = [
  ['disk full', '53100'],
  ['statement_timeout', '57014'],
  ['lock_timeout', '55P03'],
] as const;

test.each(STATES)(
  'case 11: %s now and then is tried again, and nothing is half written',
  async (what, sqlState) => {
    const s = await scenario();
    await failing(s, sqlState, '% 7 = 0');
    const { stats } = await load(await s.producer(), QUICK);
    report('case 11', { what: `${what} at every 7th batch`, rows: ROWS, retries: stats.retries });
    expect(stats.retries).toBeGreaterThanOrEqual(ROWS / BATCH_SIZE / 7 - 1);
    expectFlawless({ attempted: ROWS, acknowledged: stats.committed, delivered: await deliveredOf(s) });
  },
);

test.each(STATES)(
  'case 11: %s for longer than the retries ends the stream, which can be resumed',
  async (what, sqlState) => {
    const s = await scenario();
    const mend = await failing(s, sqlState, '> 12');
    const producer = await s.producer();
    const error = await failure(load(producer, RESUME));
    const { committed } = await expectResumable(producer, s, error, sqlState, mend);
    report('case 11', { what: `${what} that stays`, rows: ROWS, committed });
  },
);

test('case 11: the statement_timeout of the role ends a batch that waits for a lock, and it is sent again', async () => {
  const s = await scenario();
  const url = new URL(s.url);
  url.searchParams.set('options', '-c statement_timeout=300');
  const sluice = await connect({ dsn: url.href, schema: s.schema });
  onTestFinished(() => within(20_000, 'closing', sluice.close()).catch(() => undefined));
  const producer = await sluice.producer('work');
  const lock = await held(s);
  const stream = producer.writable({ ...QUICK, retries: 100 });
  const states = new Set<string | undefined>();
  stream.on('retry', ({ error }) => states.add(stateOf(error)));
  const loaded = pipeline(Readable.from(numbered(ROWS)), stream);
  await eventually('two retries', () => stream.stats.retries >= 2);
  await lock.letGo();
  await within(60_000, 'the load', loaded);
  report('case 11', { what: 'statement_timeout, a real one', rows: ROWS, retries: stream.stats.retries });
  expect([...states]).toEqual(['57014']);
  expectFlawless({ attempted: ROWS, acknowledged: stream.stats.committed, delivered: await deliveredOf(s) });
});

test(
  'case 11: a retry that waits for a lock gives up after lock_timeout, and is made again',
  { skip: !FULL },
  async () => {
    const s = await scenario();
    const producer = await s.producer();
    const lock = await held(s);
    const stream = producer.writable(QUICK);
    const states: (string | undefined)[] = [];
    stream.on('retry', ({ error }) => states.push(stateOf(error)));
    const loaded = pipeline(Readable.from(numbered(ROWS)), stream);
    await eventually('batches that wait', async () => {
      // The first attempts wait without a limit.
      const { rows } = await s.pool.query(
        `select pg_terminate_backend(pid) from pg_locks
       where relation = '${s.schema}.pgqrs_messages'::regclass and not granted`,
      );
      return rows.length > 0;
    });
    await eventually('a lock_timeout', () => states.includes('55P03'), 20_000);
    await lock.letGo();
    await within(60_000, 'the load', loaded);
    report('case 11', { what: 'lock_timeout, a real one', rows: ROWS, states });
    expectFlawless({
      attempted: ROWS,
      acknowledged: stream.stats.committed,
      delivered: await deliveredOf(s),
    });
  },
);

/** Keeps every batch waiting until the test lets it go. */
async function held({ pool, schema }: Scenario) {
  const client = await pool.connect();
  await client.query(`begin; lock ${schema}.pgqrs_messages in share mode`);
  return {
    letGo: async () => {
      await client.query('commit');
      client.release();
    },
  };
}
