import { expect, test } from 'vitest';
import { within } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { foreignWorker, row, setStatus, silence } from '../support/worker-rows.js';
import { enqueued } from './consumer-api.js';
import { stored } from './producer-api.js';

/** Beats only when it is told to. */
const STILL = { heartbeatIntervalSeconds: 3_600 };

test('46: workers that are stopped and have been silent for long are purged, unless a message refers to them', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  const worker = async (name: string, stopped: boolean, silentSeconds: number) => {
    const id = await foreignWorker(s, { name, queueId: s.queue.id });
    if (stopped) await setStatus(s, id, 'stopped');
    await silence(s, id, silentSeconds);
    return id;
  };
  const week = 7 * 86_400;
  const [old, used] = [await worker('old', true, week + 60), await worker('used', true, week + 60)];
  const kept = [await worker('young', true, week - 60), await worker('running', false, week + 60), used];
  const [id] = await enqueued(s, 1);
  await s.pool.query(`update ${s.schema}.pgqrs_messages set consumer_worker_id = $1, archived_at = now()`, [
    used,
  ]);
  expect(await admin.purgeWorkers()).toBe(1);
  expect(await row(s, old)).toBeUndefined();
  for (const worker of kept) expect(await row(s, worker)).toBeDefined();
  await admin.archive('work').delete(id!);
  expect(await admin.purgeWorkers({ olderThanSeconds: week - 3_600 })).toBe(2);
});

test('46: a worker is deleted only when no message refers to it, not even an archived one', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  const [id] = await enqueued(s, 1);
  const consumer = await s.consumer();
  const { producerWorkerId } = (await consumer.dequeue())!;
  const inUse = (workerId: string) => ({ code: 'WORKER_IN_USE', workerId });
  await expect(admin.deleteWorker(consumer.workerId)).rejects.toMatchObject(inUse(consumer.workerId));
  await expect(admin.deleteWorker(producerWorkerId!)).rejects.toMatchObject(inUse(producerWorkerId!));
  await consumer.archive(id!);
  await expect(admin.deleteWorker(consumer.workerId)).rejects.toMatchObject(inUse(consumer.workerId));
  await admin.archive('work').delete(id!);
  expect(await admin.deleteWorker(consumer.workerId)).toBe(true);
  expect(await admin.deleteWorker(consumer.workerId)).toBe(false);
  // Its process is told.
  await expect(consumer.dequeue()).rejects.toMatchObject({ code: 'WORKER_FENCED' });
});

test('46: a worker without heartbeats is found by its silence, whatever status it has but stopped', async () => {
  const s = await scenario();
  const silent = await s.consumer(STILL);
  await s.consumer(STILL);
  await silence(s, silent.workerId, 120);
  const stale = (staleForSeconds: number) => s.sluice.admin.listWorkers({ queue: 'work', staleForSeconds });
  expect(await stale(60)).toMatchObject([{ id: silent.workerId, status: 'ready' }]);
  expect(await stale(180)).toEqual([]);
  await setStatus(s, silent.workerId, 'suspended');
  expect(await stale(60)).toHaveLength(1);
  await setStatus(s, silent.workerId, 'stopped');
  expect(await stale(60)).toEqual([]);
});

test('46: reclaim stops who has been silent for a minute and releases what it holds (deviation)', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  const ids = await enqueued(s, 2);
  const [zombie, lively] = [await s.consumer(STILL), await s.consumer(STILL)];
  const [message] = await zombie.dequeueMany(1, { lockSeconds: 86_400 });
  await lively.dequeue();
  // pgqrs would take a worker for dead after one heartbeat's time.
  await silence(s, zombie.workerId, 50);
  expect(await admin.reclaim({ queue: 'work' })).toEqual({ workers: [], messages: 0 });
  await silence(s, zombie.workerId, 61);
  expect(await admin.reclaim({ queue: 'work' })).toEqual({ workers: [zombie.workerId], messages: 1 });
  expect(await row(s, zombie.workerId)).toMatchObject({ status: 'stopped', stopped: true });
  const [released, held] = await stored(s);
  expect(released).toMatchObject({ id: ids[0], readCount: 1, consumerWorkerId: null });
  expect(released!.dequeuedAt).toEqual(message!.dequeuedAt);
  expect(held).toMatchObject({ id: ids[1], consumerWorkerId: lively.workerId });
  expect(await admin.reclaim()).toEqual({ workers: [], messages: 0 });
});

test('46: who was taken for dead and is not learns it with its next heartbeat, and does nothing more (deviation)', async () => {
  const s = await scenario();
  await enqueued(s, 1);
  const zombie = await s.consumer(STILL);
  const message = (await zombie.dequeue())!;
  await silence(s, zombie.workerId, 61);
  await s.sluice.admin.reclaim();
  const other = await s.consumer();
  expect(await other.dequeue()).toMatchObject({ id: message.id, readCount: 2 });
  expect(await message.archive()).toBe(false);
  await zombie.heartbeat();
  await expect(zombie.dequeue()).rejects.toMatchObject({ code: 'CLOSED' });
  expect(await zombie.status()).toBe('stopped');
});

test('46: what a worker holds is listed, and released by name without a change of its status', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  await enqueued(s, 3);
  const consumer = await s.consumer();
  const [archived, ...held] = await consumer.dequeueMany(3);
  await archived!.archive();
  const rows = (await stored(s)).slice(1);
  expect(await admin.workerMessages(consumer.workerId)).toEqual(rows);
  expect(await admin.releaseWorkerMessages(consumer.workerId)).toBe(2);
  expect(await admin.workerMessages(consumer.workerId)).toEqual([]);
  expect(await consumer.status()).toBe('ready');
  const again = await consumer.dequeueMany(10);
  expect(again.map(({ id, readCount }) => [id, readCount])).toEqual(held.map(({ id }) => [id, 2]));
});

test('46: a consumer shuts down when it holds nothing more, and says how many it does hold', async () => {
  const s = await scenario();
  await enqueued(s, 3);
  const consumer = await s.consumer();
  const held = await consumer.dequeueMany(3);
  const pending = { code: 'WORKER_HAS_PENDING_MESSAGES', worker: consumer.workerName };
  await expect(consumer.shutdown()).rejects.toMatchObject({ ...pending, count: 3 });
  await consumer.suspend();
  await held[0]!.archive();
  await expect(consumer.shutdown()).rejects.toMatchObject({ ...pending, count: 2 });
  expect(await consumer.releaseMany(held.slice(1))).toEqual([true, true]);
  await within(10_000, 'the shutdown', consumer.shutdown());
  expect(await row(s, consumer.workerId)).toMatchObject({ status: 'stopped', stopped: true });
});
