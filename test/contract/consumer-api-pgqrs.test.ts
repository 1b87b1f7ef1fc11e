import { expect, test } from 'vitest';
import { scenario } from '../support/scenario.js';
import { enqueued, leaseEnded } from './consumer-api.js';
import { PgqrsConsumer } from './pgqrs-statements.js';
import { of, stored, VT_MICROS } from './producer-api.js';

// pgqrs' own statements, without pgqrs: the real client is in test/interop.

test('50: what pgqrs has taken is not ours, and what it archives, deletes and releases we see as that', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 6);
  const [pgqrs, consumer] = [await PgqrsConsumer.register(s), await s.consumer()];
  const now = new Date(Date.now() + 1_000); // its clock decides what is due for it
  const taken = await pgqrs.dequeue(4, { now });
  expect(taken).toHaveLength(4);
  expect((await s.sluice.admin.workerMessages(pgqrs.workerId)).length).toBe(4);
  const [archived, deleted, released, kept] = taken.map(({ id }) => id) as [string, string, string, string];
  expect((await consumer.dequeueMany(10)).map(({ id }) => id)).toEqual(
    ids.filter((id) => !taken.some((m) => m.id === id)),
  );

  expect(await pgqrs.archive([archived])).toEqual([archived]);
  expect(await pgqrs.delete([deleted])).toEqual([deleted]);
  expect(await pgqrs.release([released])).toEqual([released]);
  expect((await s.sluice.admin.archive('work').list()).messages).toEqual(
    (await stored(s)).filter(({ id }) => id === archived),
  );
  expect(await s.sluice.admin.getMessage(deleted)).toBeUndefined();
  const [again, ...others] = await consumer.dequeueMany(10);
  expect(again).toMatchObject({ id: released, readCount: 2, dequeuedAt: now });
  expect(others).toEqual([]);
  expect(await consumer.archiveMany([kept, archived, released])).toEqual([false, false, true]);
  await s.sluice.admin.verify();
});

test('50: what is ours pgqrs neither takes nor changes, until we release it', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 3);
  const [pgqrs, consumer] = [await PgqrsConsumer.register(s), await s.consumer()];
  const held = await consumer.dequeueMany(3);
  const before = await stored(s);
  const far = new Date(Date.now() + 86_400_000);
  expect(await pgqrs.dequeue(10, { now: far })).toEqual([]);
  expect(await pgqrs.archive(ids)).toEqual([]);
  expect(await pgqrs.delete(ids)).toEqual([]);
  expect(await pgqrs.release(ids)).toEqual([]);
  expect(await pgqrs.extend(ids, 60)).toEqual([]);
  expect(await stored(s)).toEqual(before);
  await held[1]!.release();
  expect(await pgqrs.dequeue(10, { now: far })).toMatchObject([{ id: ids[1], readCount: 2 }]);
  expect(await held[1]!.archive()).toBe(false);
});

test('50: a lease that pgqrs extends is longer for us too, to the microsecond', async () => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  const pgqrs = await PgqrsConsumer.register(s);
  const consumer = await s.consumer({ foreignLeases: 'expired' });
  await pgqrs.dequeue(1, { now: new Date(Date.now() + 1_000) });
  const before = BigInt((await of(s, id!, VT_MICROS)) as string);
  expect(await pgqrs.extend([id!], 600)).toEqual([id]);
  expect(BigInt((await of(s, id!, VT_MICROS)) as string) - before).toBe(600_000_000n);
  expect(await consumer.dequeue()).toBeUndefined();
  await leaseEnded(s, 0);
  expect(await consumer.dequeue()).toMatchObject({ id, readCount: 2 });
  expect(await pgqrs.extend([id!], 600)).toEqual([]);
});

test('50: what pgqrs’ dlq() takes is archived for us, and its replay of a dead letter of ours is complete', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  const [running, dead] = await enqueued(s, 2);
  const [pgqrs, consumer] = [await PgqrsConsumer.register(s), await s.consumer()];
  const messages = await consumer.dequeueMany(2);
  await messages[1]!.deadLetter('rejected');
  await s.pool.query(`update ${s.schema}.pgqrs_messages set read_ct = 5 where id = $1`, [running]);
  expect(await pgqrs.dlq()).toEqual([running]);
  expect(await consumer.archive(running!)).toBe(false);
  expect((await admin.archive('work').list()).messages.map(({ id }) => id)).toEqual([running]);
  // It knows nothing of our reasons: the message is in the queue, and no dead letter any more.
  expect(await pgqrs.replay(dead!)).toEqual([dead]);
  expect(await admin.deadLetters('work').count()).toBe(0);
  const again = (await consumer.dequeue())!;
  expect(again).toMatchObject({ id: dead, readCount: 1 });
  await again.archive();
  expect(await admin.deadLetters('work').count()).toBe(0);
  expect(await admin.archive('work').count()).toBe(2);
});

test('50: what we replay pgqrs gets like any other message', async () => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  await (await consumer.dequeue())!.deadLetter('rejected');
  const pgqrs = await PgqrsConsumer.register(s);
  const now = new Date(Date.now() + 60_000);
  expect(await pgqrs.dequeue(10, { now })).toEqual([]);
  const replayed = (await producer.replay(id!))!;
  expect(await pgqrs.dequeue(10, { now })).toEqual([
    {
      ...replayed,
      readCount: 1,
      consumerWorkerId: pgqrs.workerId,
      dequeuedAt: now,
      vt: new Date(now.getTime() + 30_000),
    },
  ]);
});

test('50: the times of both sides keep their microseconds through claims, releases and archives', async () => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  await s.pool.query(
    `update ${s.schema}.pgqrs_messages set enqueued_at = '2024-02-29 12:34:56.789123+00', vt = '2024-02-29 12:34:57.000001+00'`,
  );
  const micros = `to_char(enqueued_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')`;
  const consumer = await s.consumer();
  const message = (await consumer.dequeue())!;
  expect(message.enqueuedAt.toISOString()).toBe('2024-02-29T12:34:56.789Z'); // a Date's milliseconds
  const first = await of(s, id!, `to_char(dequeued_at, 'US')`);
  await message.release();
  const pgqrs = await PgqrsConsumer.register(s);
  await pgqrs.dequeue(1, { now: new Date(Date.now() + 1_000) });
  await pgqrs.archive([id!]);
  expect(await of(s, id!, micros)).toBe('2024-02-29 12:34:56.789123');
  expect(await of(s, id!, `to_char(dequeued_at, 'US')`)).toBe(first);
});
