import { expect, test } from 'vitest';
import type { Message } from '../../src/index.js';
import { eventually } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { change, enqueue, type Item, PATIENT, stored } from './support.js';

const LOCK_SECONDS = 3;

test.each([undefined, 20])(
  'each message comes with a lease that has just begun, however long those before it took (prefetch %s)',
  async (prefetch) => {
    const s = await scenario();
    await enqueue(s, 4);
    const consumer = await s.consumer(PATIENT);
    const options = { lockSeconds: LOCK_SECONDS, ...(prefetch === undefined ? {} : { prefetch }) };
    const archived: boolean[] = [];
    for await (const message of consumer.messages<Item>(options)) {
      const { n } = message.payload;
      const left = async () => (await stored(s))[n]!.due;
      expect((await stored(s))[n]).toMatchObject({ consumer: consumer.workerId, readCount: 1 });
      expect(await left()).toBeGreaterThan(LOCK_SECONDS / 2);
      await eventually('half of the time that it has', async () => (await left()) < LOCK_SECONDS / 2);
      archived.push(await message.archive());
      if (archived.length === 4) break;
    }
    expect(archived).toEqual(Array(4).fill(true));
    expect((await stored(s)).map(({ readCount }) => readCount)).toEqual(Array(4).fill(1));
  },
  30_000,
);

test('what has lost its lease while it waited is not handed out', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  const consumer = await s.consumer(PATIENT);
  const other = await s.consumer();
  const got: number[] = [];
  let theirs: Message<Item>[] = [];
  for await (const { payload } of consumer.messages<Item>({ prefetch: 5, lockSeconds: LOCK_SECONDS })) {
    got.push(payload.n);
    if (got.length === 2) break;
    // Somebody else has the second one, as after a process that was stopped for a while.
    theirs = await eventually('the other one has it', async () => {
      await change(s, `vt = now() - interval '1 second'`, `(payload->>'n')::int = 1`);
      const taken = await other.dequeueMany<Item>(1, { lockSeconds: 1_000 });
      return taken.length > 0 ? taken : undefined;
    });
    await eventually('a look at the leases', async () => (await stored(s))[2]!.lease > 1.5 * LOCK_SECONDS);
  }
  expect(got).toEqual([0, 2]);
  expect(theirs.map(({ payload }) => payload.n)).toEqual([1]);
});
