import { expect, test } from 'vitest';
import { WorkerHasPendingMessagesError } from '../src/index.js';
import { countQueueUse } from '../src/sql/queues.js';
import { put, referTo } from './support/dead-messages.js';
import { eventually, within } from './support/eventually.js';
import { explained } from './support/explained.js';
import { scenario } from './support/scenario.js';
import { spied } from './support/spied.js';

test('a purge of a queue goes in steps: interrupted it has done some, and called again it does the rest', async () => {
  const here = await scenario();
  const other = await here.sluice.admin.createQueue('other');
  await put(here, { count: 9_000, columns: { archived_at: 'case when g % 2 = 0 then now() end' } });
  await put({ ...here, queue: other }, { count: 4_000 });
  await put(here, { count: 9_000 });
  const { sluice, count, answered } = await spied(here);
  answered('purge_queue', () => Promise.reject(new Error('the connection was lost')));
  await expect(sluice.admin.purgeQueue('work')).rejects.toThrow('the connection was lost');
  expect(await here.count()).toBe(13_000);
  expect(await sluice.admin.purgeQueue('work')).toBe(9_000);
  expect(await here.count()).toBe(4_000);
  expect(count('purge_queue')).toBe(3);
});

test('a purge of a queue ends, whatever is added meanwhile, and takes all that was there before', async () => {
  const here = await scenario();
  await put(here, { count: 12_000 });
  const { sluice, count, answered } = await spied(here);
  answered('purge_queue', async () => {
    await put(here, { count: 30_000 });
  });
  expect(await sluice.admin.purgeQueue('work')).toBe(12_000);
  expect(count('purge_queue')).toBe(2);
  expect(await here.count()).toBe(30_000);
});

test('a message that is being claimed while its queue is purged goes too', async () => {
  const here = await scenario();
  const { pool, schema, sluice } = here;
  await put(here, { count: 3 });
  const claim = await pool.connect();
  await claim.query(
    `begin; update ${schema}.pgqrs_messages set vt = now() + interval '1 minute', read_ct = 1`,
  );
  const purging = sluice.admin.purgeQueue('work');
  await eventually('the purge waits for the claim', async () => {
    const { rows } = await pool.query(`select from pg_stat_activity where wait_event_type = 'Lock'
      and query like '%sluice:purge_queue%' and query like '%${schema}%'`);
    return rows.length > 0;
  });
  await claim.query('commit');
  claim.release();
  expect(await within(10_000, 'the purge', purging)).toBe(3);
  expect(await here.count()).toBe(0);
});

test('messages that workflow runs refer to stay, the rest of the queue goes, and the error says how many', async () => {
  const here = await scenario();
  const ids = await put(here, { count: 10_500 });
  await referTo(here, ids[0]!);
  await referTo(here, ids[10_400]!);
  await expect(here.sluice.admin.purgeQueue('work')).rejects.toMatchObject({
    sqlState: '23503',
    message: expect.stringMatching(/^10498 message\(s\) are gone; 2 stay/) as string,
  });
  expect(await here.count()).toBe(2);
});

test('what keeps a queue from being deleted is found by indexes', async () => {
  const here = await scenario();
  await put(here, { count: 20_000 });
  await here.pool.query(`vacuum analyze ${here.schema}.pgqrs_messages`);
  const { db, read } = explained(here);
  expect(await countQueueUse(db, here.queue.id, 1_000)).toEqual({
    workers: 0,
    messages: 1_000,
    workflows: 0,
  });
  expect(read.scanned).not.toContain('pgqrs_messages');
  expect(read.buffers).toBeLessThan(100);
});

test('what a consumer holds is counted in steps, and what was due before it began is not looked at', async () => {
  const here = await scenario();
  await put(here, { count: 15_000, columns: { vt: `now() - interval '1 hour'` } });
  const { sluice, count } = await spied(here);
  const consumer = await sluice.consumer('work');
  await consumer.dequeueMany(3);
  await consumer.suspend();
  await expect(consumer.shutdown()).rejects.toThrow(WorkerHasPendingMessagesError);
  expect(count('count_held_messages')).toBe(1);
  await put(here, { count: 15_000 });
  await put(here, {
    count: 1,
    columns: { vt: `now() + interval '1 day'`, consumer_worker_id: consumer.workerId },
  });
  await expect(consumer.shutdown()).rejects.toMatchObject({ count: 4 });
  expect(count('count_held_messages')).toBe(3);
});
