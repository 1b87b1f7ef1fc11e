import { expect, test } from 'vitest';
import type { Id } from '../../src/index.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { of, stored, VT_MICROS } from './producer-api.js';

/** How many microseconds later the message's `vt` is after `extend`. */
async function extension(s: Scenario, id: Id, extend: () => Promise<boolean>): Promise<bigint> {
  const before = await of(s, id, VT_MICROS);
  expect(await extend()).toBe(true);
  return BigInt((await of(s, id, VT_MICROS)) as string) - BigInt(before as string);
}

/** Nothing of any row may change. */
async function expectRefused(s: Scenario, extend: () => Promise<boolean>): Promise<void> {
  const rows = async () => {
    const { rows: found } = await s.pool.query(
      `select m::text from ${s.schema}.pgqrs_messages m order by id`,
    );
    return found as unknown[];
  };
  const before = await rows();
  expect(await extend()).toBe(false);
  expect(await rows()).toEqual(before);
}

/** As if the lease had been taken that long ago. */
async function leaseEnded(s: Scenario, id: Id, secondsAgo: number): Promise<void> {
  await s.pool.query(
    `update ${s.schema}.pgqrs_messages set vt = now() - $2 * interval '1 second' where id = $1`,
    [id, secondsAgo],
  );
}

test('21: producer.extendVisibility() extends the lease of a message that is being processed (deviation)', async () => {
  const s = await scenario();
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  await producer.enqueue({ n: 1 });
  const { id } = (await consumer.dequeue({ lockSeconds: 20 }))!;
  const [leased] = await stored(s);
  expect(await extension(s, id, () => producer.extendVisibility(id, 30))).toBe(30_000_000n);
  // Nothing else changes: it is the same delivery, and its consumer settles it.
  expect(await stored(s)).toEqual([{ ...leased, vt: new Date(leased!.vt.getTime() + 30_000) }]);
  expect(await consumer.archive(id)).toBe(true);
});

test('22: it is false, and changes nothing, for a message that is unknown, released, archived or deleted (deviation)', async () => {
  const s = await scenario();
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  await producer.batchEnqueue([1, 2, 3, 4]);
  const [released, archived, deleted, elsewhere] = await consumer.dequeueMany(4);
  await released!.release();
  await archived!.archive();
  await deleted!.delete();
  for (const id of [released!.id, archived!.id, deleted!.id, '9223372036854775807'])
    await expectRefused(s, () => producer.extendVisibility(id, 30));
  // Nor for one of another queue.
  await s.sluice.admin.createQueue('other');
  const stranger = await s.sluice.producer('other');
  await expectRefused(s, () => stranger.extendVisibility(elsewhere!.id, 30));
  expect(await producer.extendVisibility(elsewhere!.id, 30)).toBe(true);
});

test('23: only a lease that is running can be extended (deviation)', async () => {
  const s = await scenario();
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  const ready = await producer.enqueue('ready');
  await expectRefused(s, () => producer.extendVisibility(ready.id, 30));
  const leased = (await consumer.dequeue())!;
  expect(leased.id).toBe(ready.id);
  expect(await producer.extendVisibility(leased.id, 30)).toBe(true);
  await leaseEnded(s, leased.id, 1);
  await expectRefused(s, () => producer.extendVisibility(leased.id, 3_600));
  const delayed = await producer.enqueueDelayed('delayed', 3_600);
  await expectRefused(s, () => producer.extendVisibility(delayed.id, 30));
});

test('24: it adds seconds to what is left of the lease, and never shortens it (deviation)', async () => {
  const s = await scenario();
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  await producer.enqueue(1);
  const { id } = (await consumer.dequeue({ lockSeconds: 3_600 }))!;
  const by = (seconds: number) => extension(s, id, () => producer.extendVisibility(id, seconds));
  // From now on, 30 seconds would have taken away most of the hour.
  expect(await by(30)).toBe(30_000_000n);
  expect(await by(30)).toBe(30_000_000n);
  expect(await by(0)).toBe(0n);
  expect(await by(0.25)).toBe(250_000n);
  expect(await by(2_592_000)).toBe(2_592_000_000_000n);
  const before = await stored(s);
  for (const seconds of [-1, 2_592_001, Number.NaN, Infinity]) {
    await expect(producer.extendVisibility(id, seconds)).rejects.toMatchObject({
      code: 'INVALID_OPTION',
      field: 'seconds',
    });
  }
  expect(await stored(s)).toEqual(before);
});

test('25: of consumers only the owner extends a lease, exactly, and another gets false', async () => {
  const s = await scenario();
  const [producer, owner, other] = [await s.producer(), await s.consumer(), await s.consumer()];
  await producer.enqueue(1);
  const message = (await owner.dequeue({ lockSeconds: 600 }))!;
  const { id } = message;
  await expectRefused(s, () => other.extendVisibility(id, 30));
  await expectRefused(s, () => other.extendVisibility(message, 30));
  expect(await extension(s, id, () => owner.extendVisibility(id, 30))).toBe(30_000_000n);
  expect(await extension(s, id, () => message.extendVisibility(60))).toBe(60_000_000n);
  await message.archive();
  await expectRefused(s, () => owner.extendVisibility(id, 30));
});

test('25: an owner whose lease has run out, with nobody else at it, gets that many seconds from now (deviation)', async () => {
  const s = await scenario();
  const [producer, owner] = [await s.producer(), await s.consumer()];
  await producer.enqueue(1);
  const message = (await owner.dequeue())!;
  await leaseEnded(s, message.id, 3_600);
  expect(await message.extendVisibility(30)).toBe(true);
  const left = await of(s, message.id, 'extract(epoch from vt - now())::float8');
  expect(left).toBeGreaterThan(20);
  expect(left).toBeLessThanOrEqual(30);
});
