import { expect, onTestFinished, test, vi } from 'vitest';
import { scenario } from '../support/scenario.js';
import { foreignWorker, setStatus, silence } from '../support/worker-rows.js';
import { enqueued, leaseEnded, ns } from './consumer-api.js';
import { elapse, of, stored } from './producer-api.js';

/** Exact to the microsecond. */
const LEASE = 'extract(epoch from vt - dequeued_at)::float8';

test('37: dequeue gives at most as many as were asked for, and none where there are none', async () => {
  const s = await scenario();
  const consumer = await s.consumer();
  expect(await consumer.dequeue()).toBeUndefined();
  expect(await consumer.dequeueMany(10)).toEqual([]);
  await enqueued(s, 10);
  expect(ns(await consumer.dequeueMany(5))).toEqual([0, 1, 2, 3, 4]);
  expect(ns([(await consumer.dequeue())!])).toEqual([5]);
  expect(ns(await consumer.dequeueMany(100))).toEqual([6, 7, 8, 9]);
  expect(await consumer.dequeueMany(100)).toEqual([]);
});

test('37: read_ct is 1, 2 and so on with each delivery, and dequeued_at stays that of the first', async () => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  const consumer = await s.consumer();
  const first = (await consumer.dequeue())!;
  expect(first).toMatchObject({ id, readCount: 1, consumerWorkerId: consumer.workerId, archivedAt: null });
  expect(first.dequeuedAt).not.toBeNull();
  for (const readCount of [2, 3, 4, 5]) {
    await consumer.release(id!);
    const again = (await consumer.dequeue())!;
    expect(again).toMatchObject({ id, readCount, dequeuedAt: first.dequeuedAt });
    expect(await stored(s)).toMatchObject([{ readCount, dequeuedAt: first.dequeuedAt, vt: again.vt }]);
  }
});

test('37: a lease lasts as long as the call says, or the consumer, or the configuration, or else 30 seconds (deviation)', async () => {
  const s = await scenario();
  const other = await scenario({ defaultLockTimeSeconds: 7 });
  await enqueued(s, 6);
  await enqueued(other, 1);
  const [usual, own] = [await s.consumer(), await s.consumer({ lockSeconds: 12.5 })];
  expect(await of(s, (await usual.dequeue())!.id, LEASE)).toBe(30);
  expect(await of(s, (await own.dequeue())!.id, LEASE)).toBe(12.5);
  for (const lockSeconds of [0.25, 120, 2_592_000])
    expect(await of(s, (await own.dequeue({ lockSeconds }))!.id, LEASE)).toBe(lockSeconds);
  expect(await of(other, (await (await other.consumer()).dequeue())!.id, LEASE)).toBe(7);
  // For its time nobody gets it, and then it is over.
  const { id } = (await usual.dequeueMany(1, { lockSeconds: 60 }))[0]!;
  await elapse(s, 58);
  expect((await own.dequeueMany(10)).map((message) => message.id)).not.toContain(id);
  await elapse(s, 2);
  expect((await own.dequeueMany(10)).map((message) => message.id)).toContain(id);
});

test('37: the clock of the consumer’s machine decides nothing (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer();
  await producer.enqueueDelayed('later', 3_600);
  await producer.enqueue('now');
  const consumer = await s.consumer();
  onTestFinished(() => void vi.useRealTimers());
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 86_400_000 });
  const [message, ...others] = await consumer.dequeueMany(10);
  expect([message!.payload, others]).toEqual(['now', []]);
  expect(await of(s, message!.id, `abs(extract(epoch from now() - dequeued_at)) < 60`)).toBe(true);
  expect(await of(s, message!.id, LEASE)).toBe(30);
});

test('37: a consumer that is suspended, interrupted or stopped gets nothing (deviation)', async () => {
  const s = await scenario();
  await enqueued(s, 2);
  const consumer = await s.consumer({ heartbeatIntervalSeconds: 3_600 });
  const refused = { code: 'WORKER_SUSPENDED', worker: consumer.workerName };
  await consumer.suspend();
  await expect(consumer.dequeue()).rejects.toMatchObject({ ...refused, status: 'suspended' });
  await consumer.resume();
  await setStatus(s, consumer.workerId, 'interrupted');
  await consumer.heartbeat(); // as a poller of pgqrs', it suspends itself then
  expect(await consumer.status()).toBe('suspended');
  await expect(consumer.dequeueMany(10)).rejects.toMatchObject(refused);
  await consumer.shutdown();
  await expect(consumer.dequeue()).rejects.toMatchObject({ code: 'CLOSED' });
  expect((await stored(s)).every(({ readCount }) => readCount === 0)).toBe(true);
});

test('38: consumers that claim at the same time never hold the same message', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 300);
  const consumers = await Promise.all([1, 2, 3].map(() => s.consumer()));
  const taken = await Promise.all(
    consumers.map(async (consumer) => {
      const mine: string[] = [];
      for (let claimed; (claimed = await consumer.dequeueMany(7)).length > 0;)
        mine.push(...claimed.map(({ id }) => id));
      return mine;
    }),
  );
  expect(taken.flat().sort()).toEqual([...ids].sort());
  const holders = new Map((await stored(s)).map(({ id, consumerWorkerId }) => [id, consumerWorkerId]));
  for (const [index, mine] of taken.entries())
    for (const id of mine) expect(holders.get(id)).toBe(consumers[index]!.workerId);
});

test('38: who has lost a message to another can do nothing to it any more, and the other everything', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 4);
  const [former, holder] = [await s.consumer(), await s.consumer()];
  const lost = await former.dequeueMany(4);
  expect(await s.sluice.admin.releaseWorkerMessages(former.workerId)).toBe(4);
  expect((await holder.dequeueMany(4, { lockSeconds: 600 })).map(({ id }) => id)).toEqual(ids);
  const before = await stored(s);
  const nothing = [false, false, false, false];
  expect(await former.archiveMany(ids)).toEqual(nothing);
  expect(await former.deleteMany(lost)).toEqual(nothing);
  expect(await former.releaseMany(ids)).toEqual(nothing);
  expect(await Promise.all(lost.map((message) => message.extendVisibility(60)))).toEqual(nothing);
  expect(await Promise.all(lost.map((message) => message.fail(new Error('late'))))).toEqual(nothing);
  expect(await stored(s)).toEqual(before);
  expect(await holder.archiveMany(ids.slice(0, 2))).toEqual([true, true]);
  expect(await holder.deleteMany(ids.slice(2))).toEqual([true, true]);
});

test('38: of those that extend a lease at the same time only its holder does', async () => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  const [holder, ...others] = await Promise.all([1, 2, 3].map(() => s.consumer()));
  const { vt } = (await holder!.dequeue())!;
  const asked = [...others, holder!, ...others].map((consumer) => consumer.extendVisibility(id!, 60));
  expect(await Promise.all(asked)).toEqual([false, false, true, false, false]);
  expect((await stored(s))[0]!.vt.getTime()).toBe(vt.getTime() + 60_000);
});

test('38: a message names its delivery: an earlier one does nothing, even for the same consumer (deviation)', async () => {
  const s = await scenario();
  await enqueued(s, 1);
  const consumer = await s.consumer();
  const first = (await consumer.dequeue())!;
  await leaseEnded(s, 1);
  const second = (await consumer.dequeue())!;
  expect([first.id, second.readCount]).toEqual([second.id, 2]);
  expect(await first.release()).toBe(false);
  expect(await first.archive()).toBe(false);
  expect(await second.archive()).toBe(true);
});

test('40: a message that was not settled comes back when its lease has expired (deviation)', async () => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  const [crashed, other] = [await s.consumer(), await s.consumer()];
  const lost = (await crashed.dequeue({ lockSeconds: 60 }))!;
  await elapse(s, 58);
  expect(await other.dequeue()).toBeUndefined();
  await elapse(s, 2);
  expect(await other.dequeue()).toMatchObject({ id, readCount: 2, consumerWorkerId: other.workerId });
  expect(await lost.archive()).toBe(false);
  expect(await other.archive(id!)).toBe(true);
});

test('40: an owner still settles what nobody has taken over, however long the lease has been over', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 3);
  const consumer = await s.consumer();
  await consumer.dequeueMany(3);
  await leaseEnded(s, 86_400);
  expect(await consumer.release(ids[0]!)).toBe(true);
  expect(await consumer.archive(ids[1]!)).toBe(true);
  expect(await consumer.delete(ids[2]!)).toBe(true);
});

test('40: an expired lease of pgqrs’ clients comes back once its holder has been silent for a minute too (deviation)', async () => {
  const s = await scenario();
  await enqueued(s, 1);
  const foreign = await foreignWorker(s, { name: 'pgqrs', queueId: s.queue.id });
  await s.pool.query(`update ${s.schema}.pgqrs_messages set consumer_worker_id = $1, read_ct = 1`, [foreign]);
  const consumer = await s.consumer();
  await leaseEnded(s, 61);
  expect(await consumer.dequeue()).toBeUndefined(); // it lives, and may be at it
  await silence(s, foreign, 61);
  await leaseEnded(s, 30);
  expect(await consumer.dequeue()).toBeUndefined();
  await leaseEnded(s, 61);
  expect(await consumer.dequeue()).toMatchObject({ readCount: 2 });
});
