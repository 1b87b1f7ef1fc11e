// Long because it lists every state that a message can be in, with what each is counted as.
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { Admin, Config, connect, InvalidOptionError, QueueNotFoundError } from '../src/index.js';
import type { MessageCounts, QueueMetrics } from '../src/index.js';
import { numbered, scenario, type Scenario } from './support/scenario.js';
import { spied } from './support/spied.js';

const NOTHING: MessageCounts = { ready: 0, delayed: 0, leased: 0, dead: 0, archived: 0 };
const states = ({ ready, delayed, leased, dead, archived }: MessageCounts) => ({
  ready,
  delayed,
  leased,
  dead,
  archived,
});

const PAST = `now() - interval '1 minute'`;
const FUTURE = `now() + interval '1 minute'`;

interface Case {
  columns: Record<string, string>;
  state: keyof MessageCounts;
  pgqrs: 'pending' | 'locked' | 'archived';
}

/** One message each; `:ours` and `:foreign` are workers. What they are called becomes a queue's name. */
const CASES: Record<string, Case> = {
  fresh: { columns: {}, state: 'ready', pgqrs: 'pending' },
  'due for a minute': { columns: { vt: PAST }, state: 'ready', pgqrs: 'pending' },
  'without vt': { columns: { vt: 'null' }, state: 'ready', pgqrs: 'pending' },
  'without read count': { columns: { read_ct: 'null' }, state: 'ready', pgqrs: 'pending' },
  'released, one delivery left': { columns: { read_ct: '4' }, state: 'ready', pgqrs: 'pending' },
  delayed: { columns: { vt: FUTURE }, state: 'delayed', pgqrs: 'pending' },
  'delivered too often': { columns: { read_ct: '5' }, state: 'dead', pgqrs: 'pending' },
  'delivered too often, delayed': { columns: { read_ct: '6', vt: FUTURE }, state: 'dead', pgqrs: 'pending' },
  'our lease': {
    columns: { consumer_worker_id: ':ours', vt: FUTURE, read_ct: '1' },
    state: 'leased',
    pgqrs: 'locked',
  },
  'our last lease': {
    columns: { consumer_worker_id: ':ours', vt: FUTURE, read_ct: '5' },
    state: 'leased',
    pgqrs: 'locked',
  },
  'our lease, expired': {
    columns: { consumer_worker_id: ':ours', vt: PAST, read_ct: '1' },
    state: 'ready',
    pgqrs: 'locked',
  },
  'our last lease, expired': {
    columns: { consumer_worker_id: ':ours', vt: PAST, read_ct: '5' },
    state: 'dead',
    pgqrs: 'locked',
  },
  'foreign lease': {
    columns: { consumer_worker_id: ':foreign', vt: FUTURE, read_ct: '1' },
    state: 'leased',
    pgqrs: 'locked',
  },
  'foreign lease, expired': {
    columns: { consumer_worker_id: ':foreign', vt: PAST, read_ct: '1' },
    state: 'leased',
    pgqrs: 'locked',
  },
  'foreign last lease, expired': {
    columns: { consumer_worker_id: ':foreign', vt: PAST, read_ct: '5' },
    state: 'leased',
    pgqrs: 'locked',
  },
  'foreign lease without vt': {
    columns: { consumer_worker_id: ':foreign', vt: 'null' },
    state: 'leased',
    pgqrs: 'locked',
  },
  archived: { columns: { archived_at: PAST }, state: 'archived', pgqrs: 'archived' },
  'archived by its consumer': {
    columns: { archived_at: PAST, consumer_worker_id: ':ours', vt: FUTURE, read_ct: '1' },
    state: 'archived',
    pgqrs: 'archived',
  },
  'archived as dead': {
    columns: { archived_at: PAST, read_ct: '5' },
    state: 'archived',
    pgqrs: 'archived',
  },
};

/** A message per case, each in a queue of its own and all together in `work`. */
async function everyCase(): Promise<Scenario> {
  const here = await scenario();
  const { sluice, pool, schema, consumer } = here;
  const { workerId } = await consumer();
  const foreign = await pool.query<{ id: string }>(
    `insert into ${schema}.pgqrs_workers (name, queue_id) values ('theirs', ${here.queue.id}) returning id::text`,
  );
  const workers: Record<string, string> = { ':ours': workerId, ':foreign': foreign.rows[0]!.id };
  for (const [name, { columns }] of Object.entries(CASES)) {
    const values = Object.values(columns).map((value) => workers[value] ?? value);
    const names = ['queue_id', 'payload', ...Object.keys(columns)].join(', ');
    const { id } = await sluice.admin.createQueue(name);
    for (const queueId of [id, here.queue.id])
      await pool.query(
        `insert into ${schema}.pgqrs_messages (${names}) values (${[queueId, `'{}'`, ...values].join(', ')})`,
      );
  }
  return here;
}

const total = (counts: MessageCounts) => Object.values(states(counts)).reduce((sum, count) => sum + count);
const without = (metrics: QueueMetrics) => ({ ...metrics, oldestReadyAgeSeconds: 0 });

test('each message is in one state, which is the same for one queue, for each of all queues, and for their sum', async () => {
  const { sluice, queue } = await everyCase();
  const all = await sluice.admin.allQueuesMetrics();
  const found = all.filter((metrics) => metrics.queue !== queue.name);
  expect(Object.fromEntries(found.map((metrics) => [metrics.queue, states(metrics)]))).toEqual(
    Object.fromEntries(Object.entries(CASES).map(([name, { state }]) => [name, { ...NOTHING, [state]: 1 }])),
  );
  expect(Object.fromEntries(found.map(({ queue: name, pgqrs }) => [name, pgqrs]))).toMatchObject(
    Object.fromEntries(
      Object.entries(CASES).map(([name, { pgqrs }]) => [
        name,
        {
          totalMessages: 1,
          pendingMessages: pgqrs === 'pending' ? 1 : 0,
          lockedMessages: pgqrs === 'locked' ? 1 : 0,
          archivedMessages: pgqrs === 'archived' ? 1 : 0,
        },
      ]),
    ),
  );
  for (const metrics of all)
    expect(without(await sluice.admin.queueMetrics(metrics.queue))).toEqual(without(metrics));

  const together = await sluice.admin.queueMetrics('work');
  const cases = Object.values(CASES);
  expect(total(together)).toBe(cases.length);
  expect(together.pgqrs.totalMessages).toBe(cases.length);
  const stats = await sluice.admin.systemStats();
  expect(total(stats)).toBe(2 * cases.length);
  for (const state of Object.keys(NOTHING) as (keyof MessageCounts)[]) {
    const count = cases.filter((one) => one.state === state).length;
    expect(together[state]).toBe(count);
    expect(stats[state]).toBe(2 * count);
  }
  const { pendingMessages, lockedMessages, archivedMessages } = together.pgqrs;
  expect(stats.pgqrs).toMatchObject({
    totalMessages: 2 * (pendingMessages + lockedMessages),
    pendingMessages: 2 * pendingMessages,
    lockedMessages: 2 * lockedMessages,
    archivedMessages: 2 * archivedMessages,
  });
});

test('ready are exactly those that a consumer gets', async () => {
  const { sluice, pool, schema, consumer } = await everyCase();
  // pgqrs writes no NULL here; a claim passes such rows over.
  await pool.query(
    `update ${schema}.pgqrs_messages set vt = coalesce(vt, now()), read_ct = coalesce(read_ct, 0)`,
  );
  const { ready, leased } = await sluice.admin.queueMetrics('work');
  const got = await (await consumer({ foreignLeases: 'never' })).dequeueMany(100);
  expect(got).toHaveLength(ready);
  expect(await sluice.admin.queueMetrics('work')).toMatchObject({ ready: 0, leased: leased + ready });
});

test('all queues come by name; an empty one has zeros and no times', async () => {
  const { sluice, producer } = await scenario();
  await (await producer()).ingest(numbered(3));
  for (const name of ['zebras', 'apples', 'mails']) await sluice.admin.createQueue(name);
  const all = await sluice.admin.allQueuesMetrics();
  expect(all.map(({ queue, ready }) => [queue, ready])).toEqual([
    ['apples', 0],
    ['mails', 0],
    ['work', 3],
    ['zebras', 0],
  ]);
  const empty: QueueMetrics = {
    queue: 'apples',
    paused: false,
    ...NOTHING,
    oldestReadyAgeSeconds: null,
    pgqrs: {
      totalMessages: 0,
      pendingMessages: 0,
      lockedMessages: 0,
      archivedMessages: 0,
      oldestPendingMessage: null,
      newestMessage: null,
    },
  };
  expect(all[0]).toEqual(empty);
  expect(await sluice.admin.queueMetrics('apples')).toEqual(empty);
});

test("messages go through the states in a consumer's hands", async () => {
  const { sluice, pool, schema, producer, consumer } = await scenario();
  const now = async () => states(await sluice.admin.queueMetrics('work'));
  await (await producer()).ingest(numbered(5), { delaySeconds: ({ n }) => (n === 4 ? 60 : 0) });
  expect(await now()).toEqual({ ...NOTHING, ready: 4, delayed: 1 });
  const ours = await consumer();
  const [first, second, third] = await ours.dequeueMany(3);
  expect(await now()).toEqual({ ...NOTHING, ready: 1, delayed: 1, leased: 3 });
  await first!.archive();
  await second!.release({ delaySeconds: 60 });
  expect(await now()).toEqual({ ...NOTHING, ready: 1, delayed: 2, leased: 1, archived: 1 });
  await pool.query(`update ${schema}.pgqrs_messages set vt = ${PAST} where id = ${third!.id}`);
  expect(await now()).toEqual({ ...NOTHING, ready: 2, delayed: 2, archived: 1 });
  await pool.query(`update ${schema}.pgqrs_messages set read_ct = 5 where id = ${third!.id}`);
  expect(await now()).toEqual({ ...NOTHING, ready: 1, delayed: 2, dead: 1, archived: 1 });
});

/** Ready, delayed, leased by a foreign worker and archived, enqueued one hour after the other from 2020-01-01 on. */
async function dated(here: Scenario): Promise<void> {
  const { pool, schema, queue } = here;
  await pool.query(`
    insert into ${schema}.pgqrs_workers (name) values ('dated');
    insert into ${schema}.pgqrs_messages (queue_id, payload, enqueued_at, vt, consumer_worker_id, archived_at)
    select ${queue.id}, '{}', '2020-01-01T00:00:00.123999Z'::timestamptz + hour * interval '1 hour', vt, consumer, archived_at
    from (select max(id) as worker from ${schema}.pgqrs_workers) w, lateral (values
      (0, now(), worker, null::timestamptz),
      (1, now() + interval '1 day', null, null),
      (2, now() - interval '90 seconds', null, null),
      (3, null, null, null),
      (4, now(), null, now())) as m (hour, vt, consumer, archived_at)`);
}

test('ages are by the clock of the server, and the times are those of pgqrs', async () => {
  const here = await scenario();
  await dated(here);
  const { oldestReadyAgeSeconds, pgqrs } = await here.sluice.admin.queueMetrics('work');
  // Without vt it has been due since it was enqueued.
  expect(oldestReadyAgeSeconds).toBeGreaterThan(5 * 365 * 86_400);
  expect(pgqrs.oldestPendingMessage).toEqual(new Date('2020-01-01T01:00:00.123Z'));
  expect(pgqrs.newestMessage).toEqual(new Date('2020-01-01T04:00:00.123Z'));

  await here.pool.query(`delete from ${here.schema}.pgqrs_messages where vt < '2021-01-01'`);
  const later = await here.sluice.admin.queueMetrics('work');
  expect(later.oldestReadyAgeSeconds).toBeGreaterThan(90);
  expect(later.oldestReadyAgeSeconds).toBeLessThan(150);
});

test('no time that a foreign client may write makes a negative age or an error', async () => {
  const { sluice, pool, schema, queue } = await scenario();
  await pool.query(
    `insert into ${schema}.pgqrs_messages (queue_id, payload, vt, enqueued_at) values (${queue.id}, '{}', null, ${FUTURE})`,
  );
  const { ready, oldestReadyAgeSeconds } = await sluice.admin.queueMetrics('work');
  expect(ready).toBe(1);
  expect(oldestReadyAgeSeconds).toBeGreaterThanOrEqual(0);
  await pool.query(`update ${schema}.pgqrs_messages set vt = '-infinity'`);
  expect(await sluice.admin.queueMetrics('work')).toMatchObject({
    ready: 1,
    oldestReadyAgeSeconds: Infinity,
  });
});

/** int8, int4, date, timestamp, timestamptz, interval, numeric: what applications give parsers of their own. */
const MANGLED = new Set([20, 23, 1082, 1114, 1184, 1186, 1700]);
const parserOf = pg.types.getTypeParser as (type: number) => (text: string) => unknown;
const mangling = (type: number) => (MANGLED.has(type) ? () => 'mangled' : parserOf(type));

test("neither the session's settings nor the pool's type parsers change a figure", async () => {
  const here = await everyCase();
  await dated(here);
  const pool = new pg.Pool({
    connectionString: here.url,
    options: '-c TimeZone=Asia/Kathmandu -c DateStyle=German -c IntervalStyle=sql_standard',
    types: { getTypeParser: mangling as typeof pg.types.getTypeParser },
  });
  const odd = await connect({ pool, schema: here.schema });
  onTestFinished(async () => {
    await odd.close();
    await pool.end();
  });
  expect((await odd.admin.allQueuesMetrics()).map(without)).toEqual(
    (await here.sluice.admin.allQueuesMetrics()).map(without),
  );
  const ages = async ({ admin }: typeof odd) => (await admin.queueMetrics('work')).oldestReadyAgeSeconds!;
  expect(Math.abs((await ages(odd)) - (await ages(here.sluice)))).toBeLessThan(60);
  expect(await odd.admin.systemStats()).toEqual(await here.sluice.admin.systemStats());
  expect(await odd.admin.workerHealthStats({ groupByQueue: true })).toEqual(
    await here.sluice.admin.workerHealthStats({ groupByQueue: true }),
  );
  const { oldestWorkerAgeSeconds, newestHeartbeatAgeSeconds } = await odd.admin.workerStats('work');
  for (const age of [oldestWorkerAgeSeconds, newestHeartbeatAgeSeconds])
    expect(Math.abs(age! - 30)).toBeLessThanOrEqual(30);
});

test('each is one statement', async () => {
  const { sluice, count } = await spied(await scenario());
  await sluice.admin.queueMetrics('work');
  await sluice.admin.allQueuesMetrics();
  await sluice.admin.systemStats();
  await sluice.admin.workerStats('work');
  for (const name of ['queue_metrics', 'all_queues_metrics', 'system_stats', 'worker_stats'])
    expect([name, count(name)]).toEqual([name, 1]);
  expect(count('select_queue')).toBe(0);
});

test('dead is what was delivered as often as the option says, or else the configuration, or else five times', async () => {
  const { sluice, pool, schema, queue, url } = await scenario();
  await pool.query(
    `insert into ${schema}.pgqrs_messages (queue_id, payload, read_ct) select ${queue.id}, '{}', n from generate_series(0, 9) n`,
  );
  await using configured = await Admin.create(Config.fromDsn(url, { schema, maxReadCount: 3 }));
  for (const [admin, options, dead] of [
    [sluice.admin, {}, 5],
    [sluice.admin, { maxReadCount: 1 }, 9],
    [sluice.admin, { maxReadCount: 2_147_483_647 }, 0],
    [configured, {}, 7],
    [configured, { maxReadCount: 9 }, 1],
  ] as const) {
    const expected = { ready: 10 - dead, dead };
    expect(await admin.queueMetrics('work', options)).toMatchObject(expected);
    expect(await admin.allQueuesMetrics(options)).toMatchObject([expected]);
    expect(await admin.systemStats(options)).toMatchObject(expected);
  }
  for (const maxReadCount of [0, -1, 1.5, 2_147_483_648, '5' as unknown as number])
    for (const call of [
      sluice.admin.queueMetrics('work', { maxReadCount }),
      sluice.admin.allQueuesMetrics({ maxReadCount }),
      sluice.admin.systemStats({ maxReadCount }),
    ])
      await expect(call).rejects.toThrow(InvalidOptionError);
});

test('an unknown queue is told by its name, and a name that cannot be one is refused', async () => {
  const { admin } = (await scenario()).sluice;
  for (const call of ['queueMetrics', 'workerStats'] as const) {
    await expect(admin[call]('nowhere')).rejects.toMatchObject({ code: 'QUEUE_NOT_FOUND', queue: 'nowhere' });
    await expect(admin[call]('nowhere')).rejects.toThrow(QueueNotFoundError);
    await expect(admin[call]('no\0name')).rejects.toThrow(InvalidOptionError);
  }
});

test('the system at a glance: queues, workers by status, and the version of the schema', async () => {
  const { sluice, pool, schema, producer } = await scenario();
  await sluice.admin.createQueue('empty');
  await (await producer()).ingest(numbered(4));
  await pool.query(
    `insert into ${schema}.pgqrs_workers (name, status) select status::text || n, status
     from unnest(enum_range(null::${schema}.worker_status)) status, generate_series(1, 2) n where status <> 'stopped' or n = 1`,
  );
  expect(await sluice.admin.systemStats()).toEqual({
    queues: 2,
    workers: { total: 10, ready: 3, polling: 2, suspended: 2, interrupted: 2, stopped: 1 },
    ...NOTHING,
    ready: 4,
    schemaVersion: 4,
    pgqrs: {
      totalQueues: 2,
      totalWorkers: 10,
      activeWorkers: 3,
      totalMessages: 4,
      pendingMessages: 4,
      lockedMessages: 0,
      archivedMessages: 0,
    },
  });
});

test('an empty system has zeros', async () => {
  const { sluice } = await scenario();
  await sluice.admin.deleteQueue('work');
  expect(await sluice.admin.allQueuesMetrics()).toEqual([]);
  expect(await sluice.admin.systemStats()).toMatchObject({
    ...NOTHING,
    queues: 0,
    workers: { total: 0 },
    pgqrs: { totalMessages: 0, pendingMessages: 0, lockedMessages: 0 },
  });
});
