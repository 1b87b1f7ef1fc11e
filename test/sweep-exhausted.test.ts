import { expect, test } from 'vitest';
import { InvalidOptionError, QueueNotFoundError, type ForeignLeases } from '../src/index.js';
import { failures, put } from './support/dead-messages.js';
import { scenario } from './support/scenario.js';
import { spied } from './support/spied.js';
import { foreignWorker, silence } from './support/worker-rows.js';

const PAST = `now() - interval '5 minutes'`;
const RECENT = `now() - interval '5 seconds'`;
const FUTURE = `now() + interval '5 minutes'`;

/** Workers by name, of which `silent` has had no heartbeat for long. */
async function workers(here: Awaited<ReturnType<typeof scenario>>): Promise<Record<string, string>> {
  const ours = (await here.consumer()).workerId;
  const lively = await foreignWorker(here, { name: 'lively', queueId: here.queue.id });
  const silent = await foreignWorker(here, { name: 'silent', queueId: here.queue.id });
  await silence(here, silent, 100);
  return { ours, lively, silent };
}

const EVERY: ForeignLeases[] = ['never', 'stale', 'expired'];

test.each<[what: string, columns: Record<string, string>, swept: ForeignLeases[]]>([
  ['released', { vt: PAST }, EVERY],
  ['released with a delay', { vt: FUTURE }, EVERY],
  ['without vt, as foreign clients may leave it', { vt: 'null' }, EVERY],
  ['with a delivery left', { vt: PAST, read_ct: '4' }, []],
  ['without a read count', { vt: PAST, read_ct: 'null' }, []],
  ['archived already', { vt: PAST, archived_at: PAST }, []],
  ['of ours, expired', { vt: RECENT, consumer_worker_id: 'ours' }, EVERY],
  ['of ours, in its last delivery', { vt: FUTURE, consumer_worker_id: 'ours' }, []],
  ['foreign, in its last delivery', { vt: FUTURE, consumer_worker_id: 'silent' }, []],
  ['foreign, expired, of a worker that lives', { vt: PAST, consumer_worker_id: 'lively' }, ['expired']],
  ['foreign, expired, of a silent worker', { vt: PAST, consumer_worker_id: 'silent' }, ['stale', 'expired']],
  ['foreign, just expired, of a silent worker', { vt: RECENT, consumer_worker_id: 'silent' }, ['expired']],
  ['foreign, leased for ever', { vt: 'null', consumer_worker_id: 'silent' }, []],
])('%s: swept under the policies that say so', async (_what, columns, swept) => {
  const here = await scenario();
  const names = await workers(here);
  const values = Object.fromEntries(
    Object.entries({ read_ct: '5', ...columns }).map(([name, value]) => [name, names[value] ?? value]),
  );
  for (const foreignLeases of EVERY) {
    const [id] = await put(here, { count: 1, columns: values });
    const found = await here.sluice.admin.sweepExhausted({ foreignLeases });
    expect([foreignLeases, found]).toEqual([foreignLeases, swept.includes(foreignLeases) ? [id] : []]);
    expect(await failures(here)).toEqual(found);
    await here.pool.query(`delete from ${here.schema}.pgqrs_messages`);
  }
});

test('what was swept is a dead letter that says so, and keeps its last consumer', async () => {
  const here = await scenario();
  const { ours } = await workers(here);
  const [id] = await put(here, { count: 1, columns: { read_ct: '7', vt: PAST, consumer_worker_id: ours! } });
  expect((await here.sluice.admin.queueMetrics('work')).dead).toBe(1);
  expect(await here.sluice.admin.sweepExhausted()).toEqual([id]);
  const { messages } = await here.sluice.admin.deadLetters('work').list();
  expect(messages).toHaveLength(1);
  expect(messages[0]).toMatchObject({
    id,
    reason: 'exhausted',
    lastError: null,
    attempts: 7,
    readCount: 7,
    consumerWorkerId: ours,
  });
  expect(messages[0]!.deadAt).toEqual(messages[0]!.archivedAt);
  expect(await here.sluice.admin.queueMetrics('work')).toMatchObject({
    dead: 1,
    archived: 0,
    pgqrs: { totalMessages: 1, archivedMessages: 1, pendingMessages: 0, lockedMessages: 0 },
  });
  expect(await here.sluice.admin.systemStats()).toMatchObject({
    dead: 1,
    archived: 0,
    pgqrs: { totalMessages: 0, archivedMessages: 1 },
  });
});

test('a failure that a foreign replay left behind is overwritten', async () => {
  const here = await scenario();
  const [id] = await put(here, { count: 1, columns: { read_ct: '5', vt: PAST } });
  await here.pool.query(
    `insert into ${here.schema}.sluice_failures values (${id}, ${here.queue.id}, 'old', 'old', 1, ${PAST})`,
  );
  await here.sluice.admin.sweepExhausted();
  const { messages } = await here.sluice.admin.deadLetters('work').list();
  expect(messages[0]).toMatchObject({ reason: 'exhausted', lastError: null, attempts: 5 });
});

test('one queue or all of them, by the number of deliveries that is asked for', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  const queue = await admin.createQueue('other');
  const [mine] = await put(here, { count: 1, columns: { read_ct: '3' } });
  const [theirs] = await put({ ...here, queue }, { count: 1, columns: { read_ct: '3' } });
  expect(await admin.sweepExhausted()).toEqual([]);
  expect(await admin.sweepExhausted({ queue: 'other', maxReadCount: 3 })).toEqual([theirs]);
  expect(await admin.sweepExhausted({ maxReadCount: 3 })).toEqual([mine]);
  await expect(admin.sweepExhausted({ queue: 'nowhere' })).rejects.toThrow(QueueNotFoundError);
  await expect(admin.sweepExhausted({ maxReadCount: 0 })).rejects.toThrow(InvalidOptionError);
  await expect(admin.sweepExhausted({ foreignLeases: 'all' as never })).rejects.toThrow(InvalidOptionError);
});

test('a sweep of many goes in chunks along the whole index, times and ties alike', async () => {
  const here = await scenario();
  const exhausted = { read_ct: `case when g % 3 = 0 then 5 else 0 end` };
  await put(here, { count: 15_000, columns: { ...exhausted, vt: `now() - interval '1 second'` } });
  await put(here, { count: 12_000, columns: { ...exhausted, vt: `now() + g * interval '1 us'` } });
  await put(here, { count: 3_000, columns: { ...exhausted, vt: 'null' } });
  const { sluice, count } = await spied(here);
  const swept = await sluice.admin.sweepExhausted();
  expect(new Set(swept).size).toBe(10_000);
  expect(count('sweep_exhausted')).toBe(4);
  expect(await sluice.admin.deadLetters('work').count()).toBe(10_000);
});

test('two sweeps at once move each message once, and none that somebody has locked', async () => {
  const here = await scenario();
  const ids = await put(here, { count: 20_000, columns: { read_ct: '5', vt: PAST } });
  const client = await here.pool.connect();
  await client.query('begin');
  await client.query(`select from ${here.schema}.pgqrs_messages where id = $1 for update`, [ids[0]]);
  const { admin } = here.sluice;
  const both = (await Promise.all([admin.sweepExhausted(), admin.sweepExhausted()])).flat();
  const rest = await admin.sweepExhausted();
  await client.query('rollback');
  client.release();
  const all = [...both, ...rest];
  expect(all).toHaveLength(19_999);
  expect(new Set(all).size).toBe(19_999);
  expect(await admin.sweepExhausted()).toEqual([ids[0]]);
});
