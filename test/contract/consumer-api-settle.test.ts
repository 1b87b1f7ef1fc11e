import { expect, test } from 'vitest';
import type { Message } from '../../src/index.js';
import { scenario } from '../support/scenario.js';
import { enqueued, ns, rowsOf } from './consumer-api.js';
import { of, stored } from './producer-api.js';

test('39: a message is archived once, which is told by true; its row stays as it was, its consumer too (deviation)', async () => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  const consumer = await s.consumer();
  const message = (await consumer.dequeue())!;
  const [leased] = await stored(s);
  expect(await consumer.archive(id!)).toBe(true);
  const [archived] = await stored(s);
  expect(archived).toEqual({ ...leased, archivedAt: archived!.archivedAt });
  expect(archived!.archivedAt).not.toBeNull();
  expect(archived!.consumerWorkerId).toBe(consumer.workerId);
  expect(await consumer.archive(id!)).toBe(false);
  expect(await message.archive()).toBe(false);
  expect(await stored(s)).toEqual([archived]);
  expect(await consumer.dequeue()).toBeUndefined();
});

test('39: archiveMany, deleteMany and releaseMany answer in input order, and some may succeed where others do not', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 9);
  const [consumer, other] = [await s.consumer(), await s.consumer()];
  await consumer.dequeueMany(6);
  await other.dequeueMany(1);
  const [mine, others, free] = [ids.slice(0, 6), ids[6]!, ids[7]!];
  const unknown = '9223372036854775807';
  const mixed = (a: string, b: string) => [unknown, b, others, a, free];
  const answers = [false, true, false, true, false];
  expect(await consumer.archiveMany(mixed(mine[0]!, mine[1]!))).toEqual(answers);
  expect(await consumer.deleteMany(mixed(mine[2]!, mine[3]!))).toEqual(answers);
  expect(await consumer.releaseMany(mixed(mine[4]!, mine[5]!))).toEqual(answers);
  // A second time there is nothing left to do, and nothing at all is fine too.
  for (const two of [mine.slice(0, 2), mine.slice(2, 4), mine.slice(4)])
    expect(await consumer.archiveMany(two)).toEqual([false, false]);
  for (const many of ['archiveMany', 'deleteMany', 'releaseMany'] as const)
    expect(await consumer[many]([])).toEqual([]);
  expect(await s.sluice.admin.queueMetrics('work')).toMatchObject({ archived: 2, leased: 1, ready: 4 });
  expect(await s.count()).toBe(7);
});

test.each<[what: string, settle: (message: Message) => Promise<boolean>]>([
  ['delete()', (message) => message.delete()],
  ['release()', (message) => message.release()],
  ['fail()', (message) => message.fail(new Error('late'))],
  ['deadLetter()', (message) => message.deadLetter('late')],
])('39: %s of what is archived is false and changes nothing (deviation)', async (_what, settle) => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  const consumer = await s.consumer();
  const message = (await consumer.dequeue())!;
  await message.archive();
  const before = await rowsOf(s, 'pgqrs_messages');
  expect(await settle(message)).toBe(false);
  expect(await consumer.delete(id!)).toBe(false);
  expect(await consumer.release(id!)).toBe(false);
  expect(await rowsOf(s, 'pgqrs_messages')).toEqual(before);
});

test('39: what is released is due at once or after its delay, without a consumer and with its count', async () => {
  const s = await scenario();
  const [now, later] = await enqueued(s, 2);
  const consumer = await s.consumer();
  await consumer.dequeueMany(2, { lockSeconds: 600 });
  expect(await consumer.release(now!)).toBe(true);
  expect(await consumer.release(later!, { delaySeconds: 300 })).toBe(true);
  const [first, second] = await stored(s);
  for (const message of [first!, second!]) {
    expect(message).toMatchObject({ readCount: 1, consumerWorkerId: null, archivedAt: null });
    expect(message.dequeuedAt).not.toBeNull();
  }
  expect(await of(s, now!, 'vt <= now()')).toBe(true);
  expect(await of(s, later!, `vt - now() between interval '290 seconds' and interval '300 seconds'`)).toBe(
    true,
  );
  expect((await (await s.consumer()).dequeueMany(10)).map(({ id }) => id)).toEqual([now]);
});

test('39: messages are settled together with what the caller writes, or not at all (deviation)', async () => {
  const s = await scenario();
  await enqueued(s, 3);
  const consumer = await s.consumer();
  const [archived, deleted, released] = await consumer.dequeueMany(3);
  const before = await rowsOf(s, 'pgqrs_messages');
  const client = await s.pool.connect();
  const settleAll = async () =>
    [
      await archived!.archive({ client }),
      await deleted!.delete({ client }),
      await released!.release({ client }),
    ].every(Boolean);
  await client.query('begin');
  expect(await settleAll()).toBe(true);
  expect(await rowsOf(s, 'pgqrs_messages')).toEqual(before);
  await client.query('rollback');
  expect(await rowsOf(s, 'pgqrs_messages')).toEqual(before);
  await client.query('begin');
  expect(await settleAll()).toBe(true);
  await client.query('commit');
  client.release();
  expect(await s.sluice.admin.queueMetrics('work')).toMatchObject({ archived: 1, ready: 1, leased: 0 });
  expect(await s.count()).toBe(2);
});

test('39: a consumer of another queue settles nothing of this one', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 2);
  const consumer = await s.consumer();
  expect(ns(await consumer.dequeueMany(2))).toEqual([0, 1]);
  await s.sluice.admin.createQueue('other');
  const stranger = await s.sluice.consumer('other');
  expect(await stranger.dequeueMany(10)).toEqual([]);
  expect(await stranger.archiveMany(ids)).toEqual([false, false]);
  expect(await stranger.deleteMany(ids)).toEqual([false, false]);
  expect(await consumer.archiveMany(ids)).toEqual([true, true]);
});
