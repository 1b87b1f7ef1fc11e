import { once } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { Db } from '../src/db.js';
import { WorkerFencedError, WorkerNotFoundError } from '../src/index.js';
import { listWorkers, selectWorkerInfo } from '../src/sql/workers.js';
import { WorkerHandle } from '../src/worker-handle.js';
import { within } from './support/eventually.js';
import { numbered, scenario, type Scenario } from './support/scenario.js';
import { foreignWorker, row, setStatus, silence } from './support/worker-rows.js';

function open(s: Scenario, settings = ''): Db {
  const url = new URL(s.url);
  if (settings) url.searchParams.set('options', settings);
  const db = Db.open(url.href, { schema: s.schema, maxConnections: 2, connectTimeoutMs: 5_000 });
  onTestFinished(() => db.close());
  return db;
}

test('a worker of pgqrs is led through its whole life by its id', async () => {
  const s = await scenario();
  const id = await foreignWorker(s, { name: '__ephemeral__a', queueId: s.queue.id });
  const handle = new WorkerHandle(open(s), id);
  expect(handle.workerId).toBe(id);
  expect(await handle.status()).toBe('ready');
  await silence(s, id, 100);
  expect(await handle.isHealthy({ minutes: 2 })).toBe(true);
  expect(await handle.isHealthy({ seconds: 99 })).toBe(false);
  await handle.heartbeat();
  expect(await handle.isHealthy({ seconds: 5 })).toBe(true);
  expect((await row(s, id))!.age).toBeLessThan(5);

  // Its own client starts to poll.
  await setStatus(s, id, 'polling');
  await handle.interrupt();
  expect(await handle.status()).toBe('interrupted');
  // Not ours: no heartbeat of ours suspends it.
  await handle.heartbeat();
  expect(await handle.status()).toBe('interrupted');
  await handle.suspend();
  await handle.resume();
  await handle.suspend();
  await handle.shutdown();
  expect(await row(s, id)).toMatchObject({ status: 'stopped', stopped: true });
  await expect(handle.isHealthy({ seconds: -1 })).rejects.toThrow('age');
});

test('info() is the row, whatever the session makes of dates', async () => {
  const s = await scenario();
  const admin = await foreignWorker(s, { name: 'an admin', queueId: null });
  const { rows } = await s.pool.query<{ started_at: Date; heartbeat_at: Date }>(
    `update ${s.schema}.pgqrs_workers set started_at = '2026-02-01 23:59:59.999999+00',
       heartbeat_at = '2026-03-29 01:30:00.000001+00' where id = $1 returning started_at, heartbeat_at`,
    [admin],
  );
  for (const settings of ['', '-c TimeZone=Asia/Kolkata', '-c TimeZone=Europe/Vienna -c DateStyle=German']) {
    const handle = new WorkerHandle(open(s, settings), admin);
    expect(await handle.info()).toEqual({
      id: admin,
      name: 'an admin',
      queueId: null,
      status: 'ready',
      startedAt: new Date('2026-02-01T23:59:59.999Z'),
      heartbeatAt: new Date('2026-03-29T01:30:00.000Z'),
      shutdownAt: null,
    });
    // As the driver itself reads them.
    expect(await handle.info()).toMatchObject({
      startedAt: rows[0]!.started_at,
      heartbeatAt: rows[0]!.heartbeat_at,
    });
  }
  const handle = new WorkerHandle(open(s), admin);
  await handle.suspend();
  await handle.shutdown();
  const { shutdownAt } = await handle.info();
  expect(Math.abs(shutdownAt!.getTime() - Date.now())).toBeLessThan(10_000);
});

test('a worker that is not there, or no more, is not found by anything', async () => {
  const s = await scenario();
  const db = open(s);
  const id = await foreignWorker(s, { name: 'soon gone', queueId: s.queue.id });
  const handle = new WorkerHandle(db, id);
  expect(await handle.status()).toBe('ready');
  await s.sluice.admin.deleteWorker(id);
  const calls = [
    handle.info(),
    handle.status(),
    handle.heartbeat(),
    handle.isHealthy({ minutes: 5 }),
    handle.suspend(),
    handle.resume(),
    handle.interrupt(),
    handle.shutdown(),
  ];
  for (const result of await Promise.allSettled(calls)) {
    expect(result).toMatchObject({ status: 'rejected', reason: { code: 'WORKER_NOT_FOUND', workerId: id } });
    expect((result as PromiseRejectedResult).reason).toBeInstanceOf(WorkerNotFoundError);
  }
  expect(await selectWorkerInfo(db, id)).toBeUndefined();
  for (const wrong of ['', 'one', '-1', '0', 7.5, '9223372036854775808'])
    expect(() => new WorkerHandle(db, wrong)).toThrow('workerId');
});

test('a shutdown by id does not ask for pending messages, and the worker of ours learns of it', async () => {
  const s = await scenario();
  await (await s.producer()).ingest(numbered(2));
  const consumer = await s.consumer({ heartbeatIntervalSeconds: 0.05 });
  const [message] = await consumer.dequeueMany(2);
  const handle = new WorkerHandle(open(s), consumer.workerId);
  const statuses: string[] = [];
  consumer.on('status', (status) => statuses.push(status));
  let event = once(consumer, 'status');
  await handle.suspend();
  await within(5_000, 'suspended', event);
  event = once(consumer, 'status');
  await handle.shutdown();
  await within(5_000, 'stopped', event);
  expect(statuses).toEqual(['suspended', 'stopped']);
  await expect(consumer.dequeue()).rejects.toMatchObject({ code: 'CLOSED' });
  expect(await message!.archive()).toBe(true);
});

test('a handle means whoever has the row now, a worker only its own life', async () => {
  const s = await scenario();
  const named = { hostname: 'host', port: 1 };
  const first = await s.consumer({ ...named, heartbeatIntervalSeconds: 3_600 });
  const handle = new WorkerHandle(open(s), first.workerId);
  await silence(s, first.workerId, 1_000);
  const second = await s.consumer(named);
  expect(second.workerId).toBe(handle.workerId);
  await handle.suspend();
  expect(await second.status()).toBe('suspended');
  await expect(first.resume()).rejects.toThrow(WorkerFencedError);
});

test('workers are listed with the newest registration first, all or those of one queue', async () => {
  const s = await scenario();
  const db = open(s);
  expect(await listWorkers(db)).toEqual([]);
  const other = await s.sluice.admin.createQueue('other');
  const ids = [
    await foreignWorker(s, { name: 'a', queueId: s.queue.id, status: 'interrupted' }),
    await foreignWorker(s, { name: 'b', queueId: other.id }),
    await foreignWorker(s, { name: 'c', queueId: null }),
    await foreignWorker(s, { name: 'd', queueId: s.queue.id, status: 'stopped' }),
  ] as const;
  // Two of one moment: the later id is the newer.
  await s.pool.query(
    `update ${s.schema}.pgqrs_workers set started_at = timestamptz '2026-01-01' + interval '1 day' *
       case name when 'a' then 3 when 'b' then 1 else 2 end`,
  );
  const [a, b, c, d] = ids;
  expect((await listWorkers(db)).map(({ id }) => id)).toEqual([a, d, c, b]);
  expect((await listWorkers(db, s.queue.id)).map(({ id, status }) => [id, status])).toEqual([
    [a, 'interrupted'],
    [d, 'stopped'],
  ]);
  expect(await listWorkers(db, other.id)).toEqual([await selectWorkerInfo(db, b)]);
  expect(await listWorkers(db, '424242')).toEqual([]);
});
