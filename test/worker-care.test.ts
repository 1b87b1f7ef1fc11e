import { expect, test } from 'vitest';
import { InvalidOptionError, QueueNotFoundError } from '../src/index.js';
import { channelOf } from '../src/doorbell.js';
import { put, referTo } from './support/dead-messages.js';
import { eventually, within } from './support/eventually.js';
import { numbered, scenario } from './support/scenario.js';
import { spied } from './support/spied.js';
import { foreignWorker, row, setStatus, silence } from './support/worker-rows.js';

const HOUR = 3_600;

test('workers are listed by queue and by their silence; a stopped one is not stale', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  const other = await admin.createQueue('other');
  const lively = await foreignWorker(here, { name: 'lively', queueId: here.queue.id });
  const silent = await foreignWorker(here, { name: 'silent', queueId: here.queue.id, status: 'suspended' });
  const elsewhere = await foreignWorker(here, { name: 'elsewhere', queueId: other.id });
  const stopped = await foreignWorker(here, { name: 'stopped', queueId: here.queue.id, status: 'stopped' });
  for (const id of [silent, elsewhere, stopped]) await silence(here, id, 100);
  const names = async (options: Parameters<typeof admin.listWorkers>[0]) =>
    (await admin.listWorkers(options)).map(({ id }) => id).sort();
  expect(await names({})).toEqual([lively, silent, elsewhere, stopped].sort());
  expect(await names({ staleForSeconds: 60 })).toEqual([silent, elsewhere].sort());
  expect(await names({ staleForSeconds: 60, queue: 'work' })).toEqual([silent]);
  expect(await names({ staleForSeconds: 200 })).toEqual([]);
  expect(await names({ queue: 'work' })).toEqual([lively, silent, stopped].sort());
});

test('reclaiming stops silent workers in whatever status, and releases what they hold in all queues', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  const other = await admin.createQueue('other');
  const lively = await foreignWorker(here, { name: 'lively', queueId: here.queue.id });
  const elsewhere = await foreignWorker(here, { name: 'elsewhere', queueId: other.id });
  await silence(here, elsewhere, 100);
  const lost: string[] = [];
  for (const status of ['ready', 'polling', 'suspended', 'interrupted', 'stopped'] as const) {
    const id = await foreignWorker(here, { name: status, queueId: here.queue.id, status });
    await silence(here, id, 100);
    if (status !== 'stopped') lost.push(id);
  }
  const leased = (consumer: string) => ({
    consumer_worker_id: consumer,
    read_ct: '3',
    dequeued_at: `now() - interval '1 hour'`,
    vt: `now() + interval '1 hour'`,
  });
  const [mine] = await put(here, { count: 2, columns: leased(lost[0]!) });
  const [there] = await put({ ...here, queue: other }, { count: 1, columns: leased(lost[1]!) });
  const [archived] = await put(here, { count: 1, columns: { ...leased(lost[0]!), archived_at: 'now()' } });
  const [kept] = await put(here, { count: 1, columns: leased(lively) });
  const [others] = await put({ ...here, queue: other }, { count: 1, columns: leased(elsewhere) });

  const { workers, messages } = await admin.reclaim({ queue: 'work' });
  expect([...workers].sort()).toEqual([...lost].sort());
  expect(messages).toBe(3);
  for (const id of lost) expect(await row(here, id)).toMatchObject({ status: 'stopped', stopped: true });
  expect((await row(here, lively))!.status).toBe('ready');
  for (const id of [mine!, there!]) {
    const message = (await admin.getMessage(id))!;
    expect(message).toMatchObject({ consumerWorkerId: null, readCount: 3 });
    expect(message.dequeuedAt).not.toBeNull();
    expect(message.vt.getTime()).toBeLessThanOrEqual(Date.now() + 1_000);
  }
  expect((await admin.getMessage(archived!))!.consumerWorkerId).toBe(lost[0]);
  expect((await admin.getMessage(kept!))!.consumerWorkerId).toBe(lively);
  expect((await admin.getMessage(others!))!.consumerWorkerId).toBe(elsewhere);

  expect(await admin.reclaim({ queue: 'work' })).toEqual({ workers: [], messages: 0 });
  expect(await admin.reclaim({ olderThanSeconds: 99 })).toEqual({ workers: [elsewhere], messages: 1 });
});

test('reclaiming rings the doorbells of the queues that it has released messages of', async () => {
  const here = await scenario();
  const other = await here.sluice.admin.createQueue('other');
  const lost = await foreignWorker(here, { name: 'lost', queueId: here.queue.id });
  await silence(here, lost, 100);
  for (const queue of [here.queue, other])
    await put({ ...here, queue }, { count: 1, columns: { consumer_worker_id: lost } });
  const client = await here.pool.connect();
  const heard = new Set<string>();
  client.on('notification', ({ channel }) => heard.add(channel));
  for (const { id } of [here.queue, other]) await client.query(`listen "${channelOf(here.schema, id)}"`);
  await here.sluice.admin.reclaim({ queue: 'work' });
  await eventually('both doorbells', () => heard.size === 2);
  client.release(true);
});

test('a worker that comes back to life learns that it is stopped, and its acknowledgements do nothing', async () => {
  const here = await scenario();
  await (await here.producer()).ingest(numbered(2));
  const slow = await here.consumer();
  const [one, two] = await slow.dequeueMany(2);
  await silence(here, slow.workerId, 100);
  expect(await here.sluice.admin.reclaim({ queue: 'work' })).toEqual({
    workers: [slow.workerId],
    messages: 2,
  });
  const successor = await here.consumer();
  const again = await successor.dequeueMany(2);
  expect(again.map(({ readCount }) => readCount)).toEqual([2, 2]);
  expect(await one!.archive()).toBe(false);
  expect(await two!.delete()).toBe(false);
  await slow.heartbeat();
  expect(await slow.status()).toBe('stopped');
  await expect(slow.dequeue()).rejects.toMatchObject({ code: 'CLOSED' });
  for (const message of again) expect(await message.archive()).toBe(true);
});

test('a heartbeat that was on its way saves its worker: the silence is looked at again behind the lock', async () => {
  const here = await scenario();
  const slow = await foreignWorker(here, { name: 'slow', queueId: here.queue.id });
  const dead = await foreignWorker(here, { name: 'dead', queueId: here.queue.id });
  for (const id of [slow, dead]) await silence(here, id, 100);
  const client = await here.pool.connect();
  await client.query('begin');
  await client.query(`update ${here.schema}.pgqrs_workers set heartbeat_at = now() where id = $1`, [slow]);
  const reclaiming = here.sluice.admin.reclaim();
  await eventually('the reclaim to wait', async () => {
    const { rows } = await here.pool.query<{ waiting: boolean }>(
      `select exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%stop_stale_workers%'
         and query like '%${here.schema}%') as waiting`,
    );
    return rows[0]!.waiting;
  });
  await client.query('commit');
  client.release();
  expect(await within(10_000, 'the reclaim', reclaiming)).toEqual({ workers: [dead], messages: 0 });
  expect((await row(here, slow))!.status).toBe('ready');
});

test('what a worker holds is listed and can be released; its status stays', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  const other = await admin.createQueue('other');
  const holder = await foreignWorker(here, { name: 'holder', queueId: here.queue.id });
  const held = { consumer_worker_id: holder, read_ct: '1', vt: `now() + g * interval '1 hour'` };
  const mine = await put(here, { count: 3, columns: held });
  const [there] = await put({ ...here, queue: other }, { count: 1, columns: { ...held, vt: 'now()' } });
  await put(here, { count: 1, columns: { ...held, archived_at: 'now()' } });
  const list = await admin.workerMessages(holder);
  expect(list.map(({ id }) => id)).toEqual([there, ...mine]);
  expect(list[0]).toEqual(await admin.getMessage(there!));
  expect(await admin.workerMessages(holder, { limit: 2 })).toHaveLength(2);
  expect(await admin.releaseWorkerMessages(holder)).toBe(4);
  expect(await admin.workerMessages(holder)).toEqual([]);
  expect(await admin.releaseWorkerMessages(holder)).toBe(0);
  expect((await row(here, holder))!.status).toBe('ready');
  expect(await admin.queueMetrics('work')).toMatchObject({ ready: 3, leased: 0, archived: 1 });
});

test('a purge takes workers that are stopped, silent for long, and that nothing refers to', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  const other = await admin.createQueue('other');
  const add = async (name: string, status: 'ready' | 'stopped', age: number, queueId = here.queue.id) => {
    const id = await foreignWorker(here, { name, queueId, status });
    await silence(here, id, age);
    return id;
  };
  const gone = await add('gone', 'stopped', 2 * HOUR);
  const elsewhere = await add('elsewhere', 'stopped', 2 * HOUR, other.id);
  const kept = [
    await add('ready', 'ready', 2 * HOUR),
    await add('fresh', 'stopped', HOUR / 2),
    await add('producer', 'stopped', 2 * HOUR),
    await add('consumer', 'stopped', 2 * HOUR),
    await add('archiver', 'stopped', 2 * HOUR),
    await add('runner', 'stopped', 2 * HOUR),
  ];
  const [, , producer, consumer, archiver, runner] = kept;
  const [message] = await put(here, { count: 1, columns: { producer_worker_id: producer! } });
  await put({ ...here, queue: other }, { count: 1, columns: { consumer_worker_id: consumer! } });
  await put(here, { count: 1, columns: { consumer_worker_id: archiver!, archived_at: 'now()' } });
  await referTo(here, message!);
  await here.pool.query(`update ${here.schema}.pgqrs_workflow_runs set worker_id = ${runner}`);

  expect(await admin.purgeWorkers()).toBe(0); // a week
  expect(await admin.purgeWorkers({ olderThanSeconds: HOUR, queue: 'work' })).toBe(1);
  expect(await row(here, gone)).toBeUndefined();
  expect(await row(here, elsewhere)).toBeDefined();
  expect(await admin.purgeWorkers({ olderThanSeconds: HOUR })).toBe(1);
  expect((await admin.listWorkers()).map(({ id }) => id).sort()).toEqual([...kept].sort());
  await admin.verify();
});

test('a foreign client that enqueues as a stopped worker keeps it from being purged', async () => {
  const here = await scenario();
  const id = await foreignWorker(here, { name: 'late', queueId: here.queue.id, status: 'stopped' });
  await silence(here, id, 2 * HOUR);
  const client = await here.pool.connect();
  await client.query('begin');
  await client.query(
    `insert into ${here.schema}.pgqrs_messages (queue_id, payload, producer_worker_id) values (${here.queue.id}, '{}', $1)`,
    [id],
  );
  // Its check has locked the worker, which the purge passes over.
  const purged = here.sluice.admin.purgeWorkers({ olderThanSeconds: HOUR });
  expect(await within(10_000, 'the purge', purged)).toBe(0);
  await client.query('commit');
  client.release();
  expect(await here.sluice.admin.purgeWorkers({ olderThanSeconds: HOUR })).toBe(0);
  expect(await row(here, id)).toBeDefined();
  await here.sluice.admin.verify();
});

test('whoever enqueues or registers while the purge is under way waits, and finds its worker gone', async () => {
  const here = await scenario();
  const id = await foreignWorker(here, { name: 'host:1', queueId: here.queue.id, status: 'stopped' });
  await silence(here, id, 2 * HOUR);
  const { sluice, answered } = await spied(here);
  let enqueued: Promise<unknown> | undefined;
  let registered: Promise<{ workerId: string }> | undefined;
  answered('lock_old_workers', async () => {
    enqueued = here.pool
      .query(
        `insert into ${here.schema}.pgqrs_messages (queue_id, payload, producer_worker_id) values (${here.queue.id}, '{}', $1)`,
        [id],
      )
      .then(
        () => 'in',
        (error: unknown) => (error as { code: string }).code,
      );
    registered = here.producer({ hostname: 'host', port: 1 });
    registered.catch(() => undefined);
    await eventually('both to wait', async () => {
      const { rows } = await here.pool.query<{ waiting: number }>(
        `select count(*)::int as waiting from pg_stat_activity
         where wait_event_type = 'Lock' and query like '%${here.schema}%' and pid <> pg_backend_pid()`,
      );
      return rows[0]!.waiting === 2;
    });
  });
  expect(await sluice.admin.purgeWorkers({ olderThanSeconds: HOUR })).toBe(1);
  expect(await within(10_000, 'the insert', enqueued!)).toBe('23503');
  const anew = await within(10_000, 'the registration', registered!);
  expect(anew.workerId).not.toBe(id);
  expect(await row(here, id)).toBeUndefined();
  await here.sluice.admin.verify();
});

test('purges against enqueues and registrations of the same names never leave an orphan', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  for (let round = 0; round < 5; round++) {
    const ids = await Promise.all(
      Array.from({ length: 8 }, (_, n) =>
        foreignWorker(here, { name: `w:${round}${n + 1}`, queueId: here.queue.id, status: 'stopped' }),
      ),
    );
    for (const id of ids) await silence(here, id, 2 * HOUR);
    const enqueue = (id: string) =>
      here.pool
        .query(
          `insert into ${here.schema}.pgqrs_messages (queue_id, payload, producer_worker_id) values (${here.queue.id}, '{}', $1)`,
          [id],
        )
        .catch(() => undefined);
    await Promise.all([
      ...ids.slice(0, 4).map(enqueue),
      admin.purgeWorkers({ olderThanSeconds: HOUR }),
      ...ids.slice(4).map(async (_, n) => {
        const producer = await here.producer({ hostname: 'w', port: round * 10 + n + 5 });
        await producer.enqueue({});
      }),
      admin.purgeWorkers({ olderThanSeconds: HOUR }),
    ]);
  }
  await admin.verify();
});

test('an unknown queue and options that break a rule are refused', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  for (const call of [
    () => admin.listWorkers({ queue: 'nowhere' }),
    () => admin.reclaim({ queue: 'nowhere' }),
    () => admin.purgeWorkers({ queue: 'nowhere' }),
  ])
    await expect(call()).rejects.toThrow(QueueNotFoundError);
  for (const call of [
    () => admin.listWorkers({ staleForSeconds: -1 }),
    () => admin.reclaim({ olderThanSeconds: Infinity }),
    () => admin.purgeWorkers({ olderThanSeconds: '7' as never }),
    () => admin.workerMessages('1', { limit: 0 }),
    () => admin.workerMessages('x'),
    () => admin.releaseWorkerMessages('x'),
  ])
    await expect(call()).rejects.toThrow(InvalidOptionError);
  const id = await foreignWorker(here, { name: 'any', queueId: here.queue.id });
  await setStatus(here, id, 'stopped');
  expect(await admin.reclaim({ olderThanSeconds: 0 })).toEqual({ workers: [], messages: 0 });
});
