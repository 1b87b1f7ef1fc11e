import { expect, test } from 'vitest';
import { eventually, within } from '../support/eventually.js';
import { put } from '../support/dead-messages.js';
import { scenario } from '../support/scenario.js';
import { enqueued, leaseEnded } from './consumer-api.js';
import { stored } from './producer-api.js';

test('41: a message is delivered as often as allowed, five times if nothing else is said, and then not any more', async () => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  const [consumer, patient] = [await s.consumer(), await s.consumer({ maxReadCount: 6 })];
  for (const readCount of [1, 2, 3, 4, 5]) {
    const message = (await consumer.dequeue())!;
    expect(message).toMatchObject({ id, readCount });
    await message.release();
  }
  expect(await consumer.dequeueMany(10)).toEqual([]);
  // Whose limit is higher gets it once more.
  expect(await patient.dequeue()).toMatchObject({ id, readCount: 6 });
  const strict = await scenario({ maxReadCount: 1 });
  await enqueued(strict, 1);
  const only = await strict.consumer();
  expect(await (await only.dequeue())!.release()).toBe(true);
  expect(await only.dequeue()).toBeUndefined();
});

test('41: sweepExhausted archives what was delivered too often, and says why (deviation)', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  const other = await admin.createQueue('other');
  await put(s, { count: 1, columns: { read_ct: '4' } });
  const [spent] = await put(s, { count: 1, columns: { read_ct: '5' } });
  const [there] = await put({ ...s, queue: other }, { count: 1, columns: { read_ct: '9' } });
  expect(await admin.sweepExhausted({ queue: 'work' })).toEqual([spent]);
  expect(await admin.deadLetters('other').count()).toBe(0);
  expect(await admin.sweepExhausted()).toEqual([there]);
  expect(await admin.sweepExhausted()).toEqual([]);
  const { messages } = await admin.deadLetters('work').list();
  expect(messages).toEqual([
    {
      ...(await admin.getMessage(spent!))!,
      reason: 'exhausted',
      lastError: null,
      attempts: 5,
      deadAt: messages[0]!.archivedAt,
    },
  ]);
  expect(messages[0]!.archivedAt).not.toBeNull();
  // Not done: so it is not in the archive of what was.
  expect((await admin.archive('work').list()).messages).toEqual([]);
});

test('41: a message that is in its last delivery stays with its consumer (deviation)', async () => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  const consumer = await s.consumer({ maxReadCount: 1 });
  await consumer.dequeue();
  expect(await s.sluice.admin.sweepExhausted({ maxReadCount: 1 })).toEqual([]);
  expect(await consumer.archive(id!)).toBe(true);
  // A lease that ended may have ended with a process before the message was looked at: it comes back once, by itself.
  const [lost] = await enqueued(s, 1);
  for (const buried of [[], [lost]]) {
    await consumer.dequeue();
    await leaseEnded(s, 1, lost);
    expect(await s.sluice.admin.sweepExhausted({ maxReadCount: 1 })).toEqual(buried);
  }
});

test('41: whose last attempt fails, or who is given up, is a dead letter at once, with the error (deviation)', async () => {
  const s = await scenario();
  const [failing, hopeless] = await enqueued(s, 2);
  const consumer = await s.consumer({ maxReadCount: 2, backoff: 0 });
  const [first, second] = await consumer.dequeueMany(2);
  expect(await second!.deadLetter('no such customer', { error: new Error('404') })).toBe(true);
  expect(await first!.fail(new Error('boom'))).toBe(true);
  expect(await (await consumer.dequeue())!.fail(new Error('boom again'))).toBe(true);
  expect(await consumer.dequeue()).toBeUndefined();
  const { messages } = await s.sluice.admin.deadLetters('work').list();
  const seen = messages.map(({ id, reason, attempts, lastError }) => ({ id, reason, attempts, lastError }));
  expect(seen).toEqual([
    {
      id: failing,
      reason: 'exhausted',
      attempts: 2,
      lastError: expect.stringContaining('boom again') as string,
    },
    {
      id: hopeless,
      reason: 'no such customer',
      attempts: 1,
      lastError: expect.stringContaining('404') as string,
    },
  ]);
  expect(await s.sluice.admin.queueMetrics('work')).toMatchObject({ dead: 2, archived: 0, ready: 0 });
});

test('41: consumers sweep their queue by themselves now and then (deviation)', async () => {
  const s = await scenario();
  const [spent] = await put(s, { count: 1, columns: { read_ct: '5' } });
  await s.consumer({ housekeepingIntervalSeconds: 0.05 });
  const dead = s.sluice.admin.deadLetters('work');
  await eventually('the dead letter', async () => (await dead.count()) === 1);
  expect((await dead.list()).messages).toMatchObject([{ id: spent, reason: 'exhausted' }]);
});

test('41: replay brings an archived message back under its id as if it had just been enqueued, as often as need be', async () => {
  const s = await scenario();
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  const { id, payload } = await producer.enqueue({ n: 1 });
  const before = await s.pool.query<{ now: Date }>('select clock_timestamp() as now');
  for (let times = 0; times < 2; times++) {
    expect(await producer.replay(id)).toBeUndefined(); // it is in the queue
    await (await consumer.dequeue())!.archive();
    const replayed = (await producer.replay(id))!;
    expect(await stored(s)).toEqual([replayed]);
    expect(replayed).toEqual({
      id,
      queueId: s.queue.id,
      payload,
      vt: replayed.enqueuedAt,
      enqueuedAt: replayed.enqueuedAt,
      readCount: 0,
      dequeuedAt: null,
      producerWorkerId: producer.workerId,
      consumerWorkerId: null,
      archivedAt: null,
    });
    expect(replayed.enqueuedAt.getTime()).toBeGreaterThanOrEqual(before.rows[0]!.now.getTime());
  }
  expect(await consumer.dequeue()).toMatchObject({ id, payload, readCount: 1 });
});

test('41: a dead letter is replayed without what made it one, and by its own queue only (deviation)', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  const [id, second] = await enqueued(s, 2);
  const consumer = await s.consumer();
  for (const message of await consumer.dequeueMany(2)) await message.deadLetter('rejected');
  await admin.createQueue('other');
  expect(await (await s.sluice.producer('other')).replay(id!)).toBeUndefined();
  expect(await admin.deadLetters('other').replay({ all: true })).toBe(0);
  expect(await (await s.producer()).replay(id!)).toMatchObject({ id, readCount: 0 });
  expect((await admin.deadLetters('work').list()).messages).toMatchObject([
    { id: second, reason: 'rejected' },
  ]);
  expect(await admin.deadLetters('work').replay({ reason: 'rejected' })).toBe(1);
  expect(await admin.deadLetters('work').count()).toBe(0);
  const again = await within(10_000, 'both again', consumer.dequeueMany(2));
  expect(again.map((message) => message.readCount)).toEqual([1, 1]);
});
