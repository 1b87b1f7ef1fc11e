import { expect, test } from 'vitest';
import { scenario } from '../support/scenario.js';
import { DELAY, elapse, of, reader, stored } from './producer-api.js';

test('15: a delayed message is due exactly that many seconds after it was enqueued, and not dequeued before', async () => {
  const s = await scenario();
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  const message = await producer.enqueueDelayed({ n: 1 }, 300);
  expect(message.vt.getTime() - message.enqueuedAt.getTime()).toBe(300_000);
  expect(await of(s, message.id, DELAY)).toBe(300);
  expect(await stored(s)).toEqual([message]);
  await elapse(s, 290);
  expect(await consumer.dequeue()).toBeUndefined();
  await elapse(s, 10);
  expect((await consumer.dequeue())?.id).toBe(message.id);

  const atOnce = await producer.enqueueDelayed({ n: 2 }, 0);
  expect(atOnce.vt).toEqual(atOnce.enqueuedAt);
  expect((await consumer.dequeue())?.id).toBe(atOnce.id);
});

test('15: a consumer that waits gets a delayed message when it is due', async () => {
  const s = await scenario({ pollIntervalMs: 3_600_000 });
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  const first = reader(consumer)();
  const { id, vt } = await producer.enqueueDelayed({ n: 1 }, 1);
  const message = await first;
  expect(message).toMatchObject({ id, payload: { n: 1 } });
  expect(await of(s, id, `dequeued_at >= enqueued_at + interval '1 second'`)).toBe(true);
  expect(message.dequeuedAt!.getTime()).toBeGreaterThanOrEqual(vt.getTime());
});

test('16: delays of minutes, hours, days and the largest one are exact', async () => {
  const s = await scenario();
  const producer = await s.producer();
  for (const seconds of [300, 3_600, 86_400, 604_800, 4_294_967_295]) {
    const single = await producer.enqueueDelayed({ n: 1 }, seconds);
    const batch = await producer.batchEnqueue([1, 2], { delaySeconds: seconds });
    for (const message of [single, ...batch]) {
      expect(await of(s, message.id, DELAY)).toBe(seconds);
      expect(message.vt.getTime() - message.enqueuedAt.getTime()).toBe(seconds * 1_000);
      expect(await s.sluice.admin.getMessage(message.id)).toEqual(message);
    }
  }
});

test('17: a negative, fractional or too large delay is INVALID_OPTION, and no row is written', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const refused = {
    code: 'INVALID_OPTION',
    field: 'delaySeconds',
    rule: 'a whole number from 0 to 4294967295',
  };
  for (const delay of [-1, -0.5, 0.5, 300.25, 4_294_967_296, Number.NaN, Infinity, '5']) {
    const delaySeconds = delay as number;
    await expect(producer.enqueueDelayed(1, delaySeconds)).rejects.toMatchObject(refused);
    await expect(producer.enqueue(1, { delaySeconds })).rejects.toMatchObject(refused);
    await expect(producer.batchEnqueue([1], { delaySeconds })).rejects.toMatchObject(refused);
  }
  expect(await s.count()).toBe(0);
});

test('18: messages with delays of 5, 10 and 15 s become available in that order', async () => {
  const s = await scenario();
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  for (const delay of [15, 5, 10]) await producer.enqueueDelayed({ delay }, delay);
  const available = async () => {
    const taken = await consumer.dequeueMany(10);
    await consumer.deleteMany(taken);
    return taken.map(({ payload }) => payload);
  };
  expect(await available()).toEqual([]);
  for (const delay of [5, 10, 15]) {
    await elapse(s, 5);
    expect(await available()).toEqual([{ delay }]);
  }
  // And when they are all due.
  for (const delay of [15, 5, 10]) await producer.enqueueDelayed({ delay }, delay);
  await elapse(s, 60);
  expect(await available()).toEqual([{ delay: 5 }, { delay: 10 }, { delay: 15 }]);
});

test('19: an immediate message overtakes delayed ones, which block nothing', async () => {
  const s = await scenario({ pollIntervalMs: 3_600_000 });
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  await producer.batchEnqueue(
    Array.from({ length: 200 }, (_, n) => ({ later: n })),
    { delaySeconds: 3_600 },
  );
  await producer.enqueue({ now: 1 });
  const next = reader(consumer, { prefetch: 10 });
  expect((await next()).payload).toEqual({ now: 1 });
  await producer.enqueueDelayed({ later: 200 }, 1_800);
  await producer.enqueue({ now: 2 });
  expect((await next()).payload).toEqual({ now: 2 });
  expect(await (await s.consumer()).dequeueMany(1_000)).toEqual([]);
});

test('20: a scheduled message can be cancelled by its id until it is taken (deviation)', async () => {
  const s = await scenario();
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  const [scheduled, kept] = [
    await producer.enqueueDelayed(1, 3_600),
    await producer.enqueueDelayed(2, 3_600),
  ];
  // Who consumes owns what it has taken, and nothing else.
  expect(await consumer.delete(scheduled.id)).toBe(false);
  expect(await producer.cancel(scheduled.id)).toBe(true);
  expect(await stored(s)).toEqual([kept]);
  expect(await producer.cancel(scheduled.id)).toBe(false);
  await elapse(s, 3_600);
  expect((await consumer.dequeueMany(10)).map(({ id }) => id)).toEqual([kept.id]);
  const taken = await stored(s);
  expect(await producer.cancel(kept.id)).toBe(false);
  expect(await stored(s)).toEqual(taken);
});
