import { expect, onTestFinished, test } from 'vitest';
import {
  Admin,
  Config,
  InvalidOptionError,
  QueueAlreadyExistsError,
  QueueInUseError,
  QueueNotFoundError,
  SchemaNotInstalledError,
  WorkerInUseError,
} from '../src/index.js';
import { freshSchema } from './support/database.js';
import { eventually, within } from './support/eventually.js';
import { numbered, scenario, type Scenario } from './support/scenario.js';

const countOf = async ({ pool, schema }: Pick<Scenario, 'pool' | 'schema'>, table: string) => {
  const { rows } = await pool.query<{ count: number }>(`select count(*)::int from ${schema}.${table}`);
  return rows[0]!.count;
};

test('a queue is created once, found by its name, and listed with the newest first', async () => {
  const { sluice, queue } = await scenario();
  const mails = await sluice.admin.createQueue('mails');
  expect(mails.id).toMatch(/^\d+$/);
  expect(mails.name).toBe('mails');
  expect(Math.abs(mails.createdAt.getTime() - Date.now())).toBeLessThan(60_000);
  expect(await sluice.admin.getQueue('mails')).toEqual(mails);
  expect(await sluice.admin.listQueues()).toEqual([mails, queue]);
  const again = await sluice.admin.createQueue('mails').catch((error: unknown) => error);
  expect(again).toBeInstanceOf(QueueAlreadyExistsError);
  expect(again).toMatchObject({ code: 'QUEUE_ALREADY_EXISTS', queue: 'mails' });
});

test('createQueue() opens the queue that is there if it is told to', async () => {
  const { sluice, queue } = await scenario();
  expect(await sluice.admin.createQueue('work', { ifExists: 'open' })).toEqual(queue);
  const other = await sluice.admin.createQueue('other', { ifExists: 'open' });
  expect(await sluice.admin.listQueues()).toEqual([other, queue]);
  await expect(sluice.admin.createQueue('work', { ifExists: 'replace' as 'open' })).rejects.toThrow(
    'ifExists must be one of fail, open, got "replace"',
  );
});

test('of ten that create the same queue at once, one does', async () => {
  const { sluice } = await scenario();
  const outcomes = await Promise.allSettled(
    Array.from({ length: 10 }, () => sluice.admin.createQueue('one')),
  );
  expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  for (const outcome of outcomes)
    if (outcome.status === 'rejected') expect(outcome.reason).toBeInstanceOf(QueueAlreadyExistsError);
});

test.each([
  ' ',
  'with spaces',
  `'; drop table pgqrs_queues; --`,
  '"quoted"',
  'очередь 🎉',
  'a\nb\tc',
  '%_\\',
  'ü'.repeat(1_000),
])('a queue may be called %.20j', async (name) => {
  const { sluice } = await scenario();
  const queue = await sluice.admin.createQueue(name);
  expect(queue.name).toBe(name);
  expect(await sluice.admin.getQueue(name)).toEqual(queue);
  await (await sluice.producer(name)).ingest(numbered(2));
  expect(await sluice.admin.purgeQueue(name)).toBe(2);
});

test.each([
  ['10,000 characters', 'x'.repeat(10_000)],
  ['more than 2,000 bytes', 'ü'.repeat(1_001)],
  ['a NUL', 'a\0b'],
  ['no string', 7 as unknown as string],
  ['nothing', undefined as unknown as string],
])('a queue may not be called by %s, and nothing is written', async (_, name) => {
  const here = await scenario();
  const { admin } = here.sluice;
  for (const call of ['createQueue', 'getQueue', 'deleteQueue', 'purgeQueue'] as const) {
    const error = await admin[call](name).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(InvalidOptionError);
    expect(error).toMatchObject({ field: 'queue name' });
    expect((error as Error).message.length).toBeLessThan(250);
  }
  expect(await countOf(here, 'pgqrs_queues')).toBe(1);
});

test('a queue without a name, as pgqrs makes them, is a queue like any other, but none of ours is called so', async () => {
  const here = await scenario();
  const { sluice, pool, schema } = here;
  await expect(sluice.admin.createQueue('')).rejects.toMatchObject({ field: 'queue name' });
  await expect(sluice.admin.getQueue('')).rejects.toMatchObject({ code: 'QUEUE_NOT_FOUND' });
  await pool.query(`insert into ${schema}.pgqrs_queues (queue_name) values ('')`);
  const producer = await sluice.producer('');
  await producer.enqueue('one');
  await producer.ingest(['two']);
  const consumer = await sluice.consumer('');
  const messages = await consumer.dequeueMany(3);
  expect(messages.map(({ payload }) => payload)).toEqual(['one', 'two']);
  await consumer.archiveMany(messages);
  expect(await sluice.admin.queueMetrics('')).toMatchObject({ archived: 2 });
  expect(await sluice.admin.archive('').count()).toBe(2);
});

test('an unknown queue is told by its name, whatever is asked of it', async () => {
  const { sluice } = await scenario();
  const { admin } = sluice;
  for (const call of ['getQueue', 'deleteQueue', 'purgeQueue'] as const) {
    const error = await admin[call]('nowhere').catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(QueueNotFoundError);
    expect(error).toMatchObject({ code: 'QUEUE_NOT_FOUND', queue: 'nowhere' });
  }
});

test('without tables or without schema every call says to install them', async () => {
  const fresh = freshSchema();
  const admin = await Admin.create(Config.fromDsnWithSchema(fresh.url, fresh.schema));
  onTestFinished(async () => {
    await admin.close();
    await fresh.drop();
  });
  const calls = [
    () => admin.createQueue('work'),
    () => admin.getQueue('work'),
    () => admin.listQueues(),
    () => admin.deleteQueue('work'),
    () => admin.purgeQueue('work'),
    () => admin.deleteWorker('1'),
    () => admin.listWorkers(),
    () => admin.worker('1').status(),
    () => admin.getMessage('1'),
    () => admin.queueMetrics('work'),
    () => admin.allQueuesMetrics(),
    () => admin.systemStats(),
    () => admin.workerHealthStats(),
    () => admin.workerStats('work'),
  ];
  const refuse = async () => {
    for (const call of calls) {
      const error = await call().catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(SchemaNotInstalledError);
      expect((error as Error).message).toContain('admin.install()');
    }
  };
  await refuse();
  await fresh.pool.query(`create schema ${fresh.schema}`);
  await refuse();
});

test.each(['ready', 'polling', 'suspended', 'interrupted', 'stopped'])(
  'a queue with a worker that is %s is not deleted',
  async (status) => {
    const { sluice, pool, schema, producer } = await scenario();
    await producer();
    await pool.query(`update ${schema}.pgqrs_workers set status = '${status}'`);
    const error = await sluice.admin.deleteQueue('work').catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(QueueInUseError);
    expect(error).toMatchObject({
      code: 'QUEUE_IN_USE',
      queue: 'work',
      workers: 1,
      messages: 0,
      workflows: 0,
    });
    expect((await sluice.admin.getQueue('work')).name).toBe('work');
  },
);

test.each([
  ['ready', '', 3],
  ['archived', 'archived_at = now()', 1], // which are not counted
])('a queue with %s messages is not deleted until it is purged', async (_, change, found) => {
  const { sluice, pool, schema, queue } = await scenario();
  await pool.query(
    `insert into ${schema}.pgqrs_messages (queue_id, payload) select ${queue.id}, '{}' from generate_series(1, 3)`,
  );
  if (change) await pool.query(`update ${schema}.pgqrs_messages set ${change}`);
  const error = await sluice.admin.deleteQueue('work').catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(QueueInUseError);
  expect(error).toMatchObject({ workers: 0, messages: found });
  expect(await sluice.admin.purgeQueue('work')).toBe(3);
  await sluice.admin.deleteQueue('work');
  await expect(sluice.admin.deleteQueue('work')).rejects.toThrow(QueueNotFoundError);
  expect(await sluice.admin.listQueues()).toEqual([]);
});

test("a queue with a workflow of pgqrs' is not deleted", async () => {
  const { sluice, pool, schema, queue } = await scenario();
  await pool.query(`insert into ${schema}.pgqrs_workflows (name, queue_id) values ('flow', ${queue.id})`);
  const error = await sluice.admin.deleteQueue('work').catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'QUEUE_IN_USE', workers: 0, messages: 0, workflows: 1 });
});

test('purging takes ready, leased and archived messages of this queue only, and no worker', async () => {
  const here = await scenario();
  const { sluice, producer, consumer } = here;
  await sluice.admin.createQueue('other');
  await (await sluice.producer('other')).ingest(numbered(3));
  await (await producer()).ingest(numbered(4));
  const ours = await consumer();
  const archived = await ours.dequeue();
  await archived!.archive();
  await ours.dequeue();
  const workers = await countOf(here, 'pgqrs_workers');
  expect(await sluice.admin.purgeQueue('work')).toBe(4);
  expect(await sluice.admin.purgeQueue('work')).toBe(0);
  expect(await countOf(here, 'pgqrs_messages')).toBe(3);
  expect(await countOf(here, 'pgqrs_workers')).toBe(workers);
  await sluice.admin.verify();
});

test('a producer goes on in a queue that is purged under it', async () => {
  const { sluice, producer, count } = await scenario();
  const ours = await producer();
  await ours.ingest(numbered(5));
  await sluice.admin.purgeQueue('work');
  await ours.ingest(numbered(7));
  expect(await count()).toBe(7);
});

test('a worker is deleted unless something refers to it', async () => {
  const { sluice, pool, schema, producer } = await scenario();
  const idle = await producer();
  expect(await sluice.admin.deleteWorker(idle.workerId)).toBe(true);
  expect(await sluice.admin.deleteWorker(idle.workerId)).toBe(false);

  const busy = await producer();
  await busy.ingest(numbered(1));
  await pool.query(`update ${schema}.pgqrs_messages set archived_at = now()`);
  const error = await sluice.admin.deleteWorker(busy.workerId).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(WorkerInUseError);
  expect(error).toMatchObject({ code: 'WORKER_IN_USE', workerId: busy.workerId, transient: false });
  await sluice.admin.purgeQueue('work');
  expect(await sluice.admin.deleteWorker(busy.workerId)).toBe(true);

  for (const id of ['', '0', '-1', '1.5', 'x', '9223372036854775808', 7.5])
    await expect(sluice.admin.deleteWorker(id)).rejects.toThrow(InvalidOptionError);
});

test('deleting a queue that workers and messages are just coming into either happens first or says that it is in use', async () => {
  const { sluice, pool, schema } = await scenario();
  for (let round = 0; round < 40; round++) {
    const name = `round ${round}`;
    const { id } = await sluice.admin.createQueue(name);
    const writing =
      round % 2 === 0
        ? pool.query(`insert into ${schema}.pgqrs_messages (queue_id, payload) values (${id}, '{}')`)
        : pool.query(`insert into ${schema}.pgqrs_workers (name, queue_id) values ('${name}', ${id})`);
    const [written, deleted] = await Promise.allSettled([writing, sluice.admin.deleteQueue(name)]);
    if (deleted.status === 'rejected') {
      expect(written.status).toBe('fulfilled');
      expect(deleted.reason).toBeInstanceOf(QueueInUseError);
    } else expect((written as PromiseRejectedResult).reason).toMatchObject({ code: '23503' });
  }
  await sluice.admin.verify();
});

test('a delete that waited for a writer says that the queue is in use', async () => {
  const { sluice, pool, schema } = await scenario();
  const { id } = await sluice.admin.createQueue('late');
  const writer = await pool.connect();
  try {
    await writer.query(
      `begin; insert into ${schema}.pgqrs_messages (queue_id, payload) values (${id}, '{}')`,
    );
    const deleting = sluice.admin.deleteQueue('late').catch((thrown: unknown) => thrown);
    await eventually('the delete waits for the writer', async () => {
      const { rows } = await pool.query(`select from pg_stat_activity where wait_event_type = 'Lock'
        and query like '%sluice:delete_queue%' and query like '%${schema}%'`);
      return rows.length > 0;
    });
    await writer.query('commit');
    expect(await within(10_000, 'the delete', deleting)).toMatchObject({ code: 'QUEUE_IN_USE', messages: 1 });
  } finally {
    writer.release();
  }
});

test('it may be closed twice, and a pool that several share survives it', async () => {
  const { sluice, schema, url } = await scenario();
  await sluice.admin.close();
  expect(await sluice.admin.listQueues()).toHaveLength(1);
  const own = await Admin.create(Config.fromDsnWithSchema(url, schema));
  expect(await own.listQueues()).toHaveLength(1);
  await own.close();
  await own.close();
  await expect(own.listQueues()).rejects.toMatchObject({ code: 'CLOSED' });
});
