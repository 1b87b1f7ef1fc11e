import { expect, test } from 'vitest';
import { InvalidOptionError } from '../src/index.js';
import { scenario, type Scenario } from './support/scenario.js';

const NOBODY = { total: 0, ready: 0, polling: 0, suspended: 0, interrupted: 0, stopped: 0 };

/** Workers as foreign clients register them; a `queue` that is null is none. */
async function workers(
  { pool, schema }: Scenario,
  queue: string | null,
  ...rows: readonly { status: string; silentSeconds?: number; ageSeconds?: number }[]
): Promise<string[]> {
  const ids: string[] = [];
  for (const { status, silentSeconds = 0, ageSeconds = silentSeconds } of rows) {
    const { rows: made } = await pool.query<{ id: string }>(
      `insert into ${schema}.pgqrs_workers (name, status, queue_id, started_at, heartbeat_at)
       values (gen_random_uuid(), $1::text::${schema}.worker_status, (select id from ${schema}.pgqrs_queues where queue_name = $2),
         now() - $3 * interval '1 second', now() - $4 * interval '1 second') returning id::text`,
      [status, queue, ageSeconds, silentSeconds],
    );
    ids.push(made[0]!.id);
  }
  return ids;
}

test('health: one row for all workers, zeros when there are none', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  expect(await admin.workerHealthStats()).toEqual([{ queue: null, ...NOBODY, stale: 0 }]);
  expect(await admin.workerHealthStats({ groupByQueue: true })).toEqual([]);
  await workers(here, 'work', { status: 'ready' }, { status: 'polling' });
  await workers(here, null, { status: 'stopped' });
  expect(await admin.workerHealthStats()).toEqual([
    { queue: null, ...NOBODY, total: 3, ready: 1, polling: 1, stopped: 1, stale: 0 },
  ]);
});

test('health by queue: queues that have workers by name, those without a queue at the end', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  for (const name of ['Admin', 'zebras', 'nobody']) await admin.createQueue(name);
  await workers(here, 'zebras', { status: 'suspended' });
  await workers(here, 'work', { status: 'ready' }, { status: 'ready', silentSeconds: 100 });
  await workers(here, 'Admin', { status: 'interrupted' });
  await workers(here, null, { status: 'ready' }, { status: 'stopped' });
  const rows = await admin.workerHealthStats({ groupByQueue: true });
  expect(rows.at(-1)).toEqual({ queue: null, ...NOBODY, total: 2, ready: 1, stopped: 1, stale: 0 });
  expect(rows.map(({ queue }) => queue).sort()).toEqual(['Admin', null, 'work', 'zebras'].sort());
  expect(rows).toContainEqual({ queue: 'Admin', ...NOBODY, total: 1, interrupted: 1, stale: 0 });
  expect(rows).toContainEqual({ queue: 'work', ...NOBODY, total: 2, ready: 2, stale: 1 });
  expect(rows).toContainEqual({ queue: 'zebras', ...NOBODY, total: 1, suspended: 1, stale: 0 });
});

test('stale are workers that are ready or polling and silent for longer than the time-out', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  const all = ['ready', 'polling', 'suspended', 'interrupted', 'stopped'];
  await workers(here, 'work', ...all.map((status) => ({ status, silentSeconds: 45 })));
  const stale = async (timeoutSeconds?: number) =>
    (await admin.workerHealthStats(timeoutSeconds === undefined ? {} : { timeoutSeconds }))[0]!.stale;
  expect(await stale()).toBe(0);
  expect(await stale(30)).toBe(2);
  expect(await stale(44.5)).toBe(2);
  expect(await stale(3_600)).toBe(0);
  await workers(here, 'work', { status: 'polling', silentSeconds: 61 });
  expect(await stale()).toBe(1);
  for (const timeoutSeconds of [-1, NaN, Infinity, '60' as unknown as number])
    await expect(stale(timeoutSeconds)).rejects.toThrow(InvalidOptionError);
  await expect(admin.workerHealthStats({ groupByQueue: 'yes' as unknown as boolean })).rejects.toThrow(
    InvalidOptionError,
  );
});

test("a queue's workers: by status, with their ages, and with what they hold on the average", async () => {
  const here = await scenario();
  const { sluice, pool, schema, queue } = here;
  const other = await sluice.admin.createQueue('other');
  const [first, second] = await workers(
    here,
    'work',
    { status: 'polling', ageSeconds: 100, silentSeconds: 20 },
    { status: 'ready', ageSeconds: 50, silentSeconds: 10 },
    { status: 'stopped', ageSeconds: 3_600, silentSeconds: 3_000 },
    { status: 'suspended', ageSeconds: 30, silentSeconds: 30 },
  );
  const [stranger] = await workers(here, 'other', { status: 'ready', ageSeconds: 9_999 });
  await pool.query(`insert into ${schema}.pgqrs_messages (queue_id, payload, consumer_worker_id, archived_at, vt) values
    (${queue.id}, '{}', ${first}, null, now() + interval '1 hour'),
    (${queue.id}, '{}', ${first}, null, now() - interval '1 hour'),
    (${other.id}, '{}', ${second}, null, now()),
    (${queue.id}, '{}', ${first}, now(), now()),
    (${queue.id}, '{}', ${stranger}, null, now()),
    (${queue.id}, '{}', null, null, now())`);
  const stats = await sluice.admin.workerStats('work');
  expect(stats).toMatchObject({ total: 4, ready: 1, polling: 1, suspended: 1, interrupted: 0, stopped: 1 });
  expect(stats.averageMessagesPerWorker).toBe(0.75);
  expect(stats.oldestWorkerAgeSeconds).toBeGreaterThanOrEqual(3_600);
  expect(stats.oldestWorkerAgeSeconds).toBeLessThan(3_660);
  expect(stats.newestHeartbeatAgeSeconds).toBeGreaterThanOrEqual(10);
  expect(stats.newestHeartbeatAgeSeconds).toBeLessThan(70);
});

test('a queue without workers has no ages, and a clock that is ahead no negative ones', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  expect(await admin.workerStats('work')).toEqual({
    ...NOBODY,
    averageMessagesPerWorker: 0,
    oldestWorkerAgeSeconds: null,
    newestHeartbeatAgeSeconds: null,
  });
  await workers(here, 'work', { status: 'ready', silentSeconds: -600 });
  expect(await admin.workerStats('work')).toMatchObject({
    total: 1,
    averageMessagesPerWorker: 0,
    oldestWorkerAgeSeconds: 0,
    newestHeartbeatAgeSeconds: 0,
  });
});
