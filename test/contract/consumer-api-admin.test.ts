import { expect, test } from 'vitest';
import { scenario, type Scenario } from '../support/scenario.js';
import { connected, enqueued, rowsOf } from './consumer-api.js';
import { elapse, stored } from './producer-api.js';

/** Everything in the schema that a statement could name. */
async function objects({ pool, schema }: Scenario): Promise<string[]> {
  const { rows } = await pool.query<{ name: string }>(
    `select relname as name from pg_class where relnamespace = to_regnamespace($1)
     union all select typname from pg_type where typnamespace = to_regnamespace($1)
     union all select proname from pg_proc where pronamespace = to_regnamespace($1) order by 1`,
    [schema],
  );
  return rows.map(({ name }) => name);
}

/** Archives `count` messages in their order. @returns their ids */
async function done(s: Scenario, count: number): Promise<string[]> {
  const ids = await enqueued(s, count);
  const consumer = await s.consumer();
  for (const message of await consumer.dequeueMany(count)) await message.archive();
  await consumer.close();
  return ids;
}

test('42: a queue is created, found, listed, measured and deleted; twice it is there already', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  const queue = await admin.createQueue('emails');
  expect(queue).toMatchObject({ name: 'emails', id: expect.stringMatching(/^[1-9]\d*$/) as string });
  expect(await admin.getQueue('emails')).toEqual(queue);
  expect(await admin.listQueues()).toEqual([queue, s.queue]);
  await expect(admin.createQueue('emails')).rejects.toMatchObject({
    code: 'QUEUE_ALREADY_EXISTS',
    queue: 'emails',
  });
  expect((await admin.queueMetrics('emails')).pgqrs.totalMessages).toBe(0);
  await admin.deleteQueue('emails');
  const gone = { code: 'QUEUE_NOT_FOUND', queue: 'emails' };
  await expect(admin.getQueue('emails')).rejects.toMatchObject(gone);
  await expect(admin.queueMetrics('emails')).rejects.toMatchObject(gone);
  await expect(admin.deleteQueue('emails')).rejects.toMatchObject(gone);
  expect(await admin.listQueues()).toEqual([s.queue]);
});

test('42: a queue that a worker, a message or only an archived one refers to is not deleted (deviation)', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  const producer = await s.producer();
  const inUse = { code: 'QUEUE_IN_USE', queue: 'work' };
  await expect(admin.deleteQueue('work')).rejects.toMatchObject({ ...inUse, workers: 1, messages: 0 });
  await producer.enqueue(1);
  await producer.close(); // stopped workers count too
  await expect(admin.deleteQueue('work')).rejects.toMatchObject({ ...inUse, workers: 1, messages: 1 });
  const consumer = await s.consumer();
  await (await consumer.dequeue())!.archive();
  await consumer.close();
  await expect(admin.deleteQueue('work')).rejects.toMatchObject({ ...inUse, workers: 2 });
  expect(await admin.purgeQueue('work')).toBe(1);
  await expect(admin.deleteQueue('work')).rejects.toMatchObject({ ...inUse, workers: 2, messages: 0 });
  for (const { workerId } of [producer, consumer]) expect(await admin.deleteWorker(workerId)).toBe(true);
  await admin.deleteQueue('work');
  expect(await admin.listQueues()).toEqual([]);
});

test('42: a purge takes the messages of a queue and leaves its workers to work on (deviation)', async () => {
  const s = await scenario();
  await done(s, 3);
  const producer = await s.producer();
  await producer.batchEnqueue([1, 2]);
  const workers = await rowsOf(s, 'pgqrs_workers');
  expect(await s.sluice.admin.purgeQueue('work')).toBe(5);
  expect(await s.count()).toBe(0);
  expect(await rowsOf(s, 'pgqrs_workers')).toEqual(workers);
  await producer.enqueue(3);
  await s.sluice.admin.verify();
});

test('42: an admin needs no worker of its own (deviation)', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  await admin.install();
  await admin.verify();
  await admin.queueMetrics('work');
  await admin.sweepExhausted();
  await admin.reclaim();
  await admin.purgeQueue('work');
  expect(await rowsOf(s, 'pgqrs_workers')).toEqual([]);
  await admin.deleteQueue('work'); // which workers would keep it from
});

test('44: a second installation changes nothing', async () => {
  const s = await scenario();
  await done(s, 2);
  const tables = ['_sqlx_migrations', 'sluice_migrations', 'pgqrs_queues', 'pgqrs_workers', 'pgqrs_messages'];
  const state = async () => [
    await objects(s),
    ...(await Promise.all(tables.map((table) => rowsOf(s, table)))),
  ];
  const before = await state();
  await s.sluice.admin.install();
  expect(await state()).toEqual(before);
});

test('44: an installation that fails keeps no lock, and can be made again (deviation)', async () => {
  const s = await scenario();
  await s.sluice.admin.uninstall();
  await s.pool.query(`create table ${s.schema}.pgqrs_messages (id text)`);
  const url = new URL(s.url);
  url.searchParams.set('application_name', s.schema);
  const { admin } = await connected(s, url);
  await expect(admin.install()).rejects.toMatchObject({ code: 'SCHEMA_MISMATCH' });
  const { rows } = await s.pool.query(
    `select l.locktype from pg_locks l join pg_stat_activity a using (pid) where a.application_name = $1`,
    [s.schema],
  );
  expect(rows).toEqual([]);
  await s.pool.query(`drop table ${s.schema}.pgqrs_messages`);
  await admin.install();
  await admin.verify();
});

test.each(['pgqrs_queues', 'pgqrs_workers', 'pgqrs_messages', 'sluice_failures', 'sluice_queues'])(
  '44: verify misses the table %s and says so (deviation)',
  async (table) => {
    const s = await scenario();
    await s.sluice.admin.verify();
    await s.pool.query(`drop table ${s.schema}.${table} cascade`);
    await expect(s.sluice.admin.verify()).rejects.toMatchObject({
      code: 'SCHEMA_MISMATCH',
      findings: expect.arrayContaining([expect.stringContaining(table)]) as string[],
    });
  },
);

test('44: verify finds a reference to nobody, and without any table says that nothing is installed (deviation)', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  await enqueued(s, 1);
  await s.pool.query(`
    begin; set local session_replication_role = replica;
    update ${s.schema}.pgqrs_messages set producer_worker_id = 424242; commit`);
  await expect(admin.verify()).rejects.toMatchObject({ code: 'SCHEMA_MISMATCH' });
  await admin.uninstall();
  await expect(admin.verify()).rejects.toMatchObject({ code: 'SCHEMA_NOT_INSTALLED' });
  await expect(admin.listQueues()).rejects.toMatchObject({ code: 'SCHEMA_NOT_INSTALLED' });
});

test('44: uninstall removes everything that install made, and nothing else (deviation)', async () => {
  const s = await scenario();
  await done(s, 2);
  await s.pool.query(`create table ${s.schema}.somebody_elses (id int)`);
  await s.sluice.admin.uninstall();
  expect((await objects(s)).sort()).toEqual(['_somebody_elses', 'somebody_elses', 'somebody_elses']);
  await s.sluice.admin.uninstall(); // twice is fine
  await s.sluice.admin.install();
  await s.sluice.admin.verify();
});

test('45: the archive is listed, newest first, and counted; of its queue only (deviation)', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  const ids = await done(s, 3);
  await enqueued(s, 1);
  await admin.createQueue('other');
  const { messages } = await admin.archive('work').list();
  expect(messages).toEqual((await stored(s)).slice(0, 3).reverse());
  expect(messages.map(({ id }) => id)).toEqual([...ids].reverse());
  expect(await admin.archive('work').count()).toBe(3);
  expect(await admin.archive('other').count()).toBe(0);
  const second = messages[1]!.archivedAt!;
  expect(await admin.archive('work').count({ archivedAfter: second })).toBeGreaterThanOrEqual(2);
});

test('45: a purge deletes the archive, or of it what is old enough, and nothing else (deviation)', async () => {
  const s = await scenario();
  const archive = s.sluice.admin.archive('work');
  await done(s, 2);
  await elapse(s, 60);
  await s.pool.query(
    `update ${s.schema}.pgqrs_messages set archived_at = archived_at - interval '60 seconds'`,
  );
  await done(s, 1);
  const waiting = await enqueued(s, 1);
  expect(await archive.purge({ olderThanSeconds: 3_600 })).toBe(0);
  expect(await archive.purge({ olderThanSeconds: 60 })).toBe(2);
  expect(await archive.count()).toBe(1);
  expect(await archive.purge({ all: true })).toBe(1);
  expect((await stored(s)).map(({ id }) => id)).toEqual(waiting);
});

test('45: messages of the archive are deleted by their ids (deviation)', async () => {
  const s = await scenario();
  const archive = s.sluice.admin.archive('work');
  const [first, second, third] = await done(s, 3);
  const [waiting] = await enqueued(s, 1);
  expect(await archive.delete(first!)).toBe(1);
  expect(await archive.delete([first!, second!, waiting!, '424242'])).toBe(1);
  expect((await stored(s)).map(({ id }) => id)).toEqual([third, waiting]);
});

test('45: what a queue keeps for no longer than told is deleted by its consumers (deviation)', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  await done(s, 2);
  await admin.setRetention('work', { archiveSeconds: 3_600 });
  expect(await admin.queueSettings('work')).toEqual({
    pausedAt: null,
    archiveSeconds: 3_600,
    deadLetterSeconds: null,
  });
  await s.pool.query(
    `update ${s.schema}.pgqrs_messages set archived_at = now() - interval '2 hours' where id = (select min(id) from ${s.schema}.pgqrs_messages)`,
  );
  await s.consumer({ housekeepingIntervalSeconds: 0.05 });
  await expect.poll(() => admin.archive('work').count(), { timeout: 10_000 }).toBe(1);
});
