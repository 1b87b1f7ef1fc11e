import { expect, test } from 'vitest';
import { Floor } from '../../src/consume/floor.js';
import { numbers } from '../ingest/support.js';
import { eventually } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { change, enqueue, ns, running } from './support.js';

const PLACE = { dueMicros: 5, id: '7' };
const LATER = { dueMicros: 9, id: '1' };

test('a claim begins behind the last one that was full', () => {
  const floor = new Floor();
  expect(floor.next(0)).toBeUndefined();
  expect(floor.next(1)).toBeUndefined();
  floor.moveTo(PLACE);
  expect(floor.next(2)).toBe(PLACE);
  floor.moveTo(LATER);
  expect(floor.next(3)).toBe(LATER);
  floor.reset();
  expect(floor.next(4)).toBeUndefined();
});

test('once a second a claim begins at the beginning, however many are full', () => {
  const floor = new Floor();
  const fromTheBeginning: number[] = [];
  for (let now = 0; now <= 5_000; now += 10) {
    if (!floor.next(now)) fromTheBeginning.push(now);
    floor.moveTo(PLACE);
  }
  expect(fromTheBeginning).toEqual([0, 1_000, 2_000, 3_000, 4_000, 5_000]);
});

test('claims that are further apart than that always begin at the beginning', () => {
  const floor = new Floor();
  for (let now = 0; now <= 10_000; now += 1_000) {
    expect(floor.next(now)).toBeUndefined();
    floor.moveTo(PLACE);
  }
});

/** A message that was committed late: it is due before all others. */
async function putFirst({ pool, schema, queue }: Scenario, n: number): Promise<void> {
  await pool.query(
    `insert into ${schema}.pgqrs_messages (queue_id, payload, vt) values ($1, $2, now() - interval '1 day')`,
    [queue.id, { n }],
  );
}

test('a full claim is followed by one from behind it, and a short one by one from the beginning', async () => {
  const s = await scenario();
  await enqueue(s, 30);
  await change(s, `vt = now() - interval '1 hour' + id * interval '1 microsecond'`);
  const consumer = await s.consumer();
  let skipped = false;
  // Within a second of the claim before; on a busy machine it may take more than one try.
  for (let tries = 0; !skipped && tries < 5; tries++) {
    expect(await consumer.dequeueMany(2)).toHaveLength(2);
    const from = performance.now();
    await putFirst(s, 1_000 + tries);
    const next = ns(await consumer.dequeueMany(2));
    if (performance.now() - from < 900) {
      expect(next).not.toContain(1_000 + tries);
      skipped = true;
    }
  }
  expect(skipped).toBe(true);
  const rest = ns(await consumer.dequeueMany(1_000));
  expect(rest.filter((n) => n >= 1_000).length).toBeGreaterThan(0);
});

test('dequeueMany() answers with all that are due, also those before the floor', async () => {
  const s = await scenario();
  await enqueue(s, 10);
  const consumer = await s.consumer();
  expect(ns(await consumer.dequeueMany(4))).toEqual([0, 1, 2, 3]);
  await putFirst(s, 100);
  await putFirst(s, 101);
  expect(ns(await consumer.dequeueMany(8)).toSorted((a, b) => a - b)).toEqual([4, 5, 6, 7, 8, 9, 100, 101]);
  expect(await consumer.dequeueMany(8)).toEqual([]);
});

test('messages with the same moment of being due are told apart by their ids', async () => {
  const s = await scenario();
  await enqueue(s, 50);
  await change(s, `vt = '2024-01-01 00:00:00.123457+00'`);
  const consumer = await s.consumer();
  const got: number[] = [];
  for (let claims = 0; claims < 25; claims++) got.push(...ns(await consumer.dequeueMany(2)));
  expect(got).toEqual(numbers(50));
});

test('what another consumer gives back is not left behind', async () => {
  const s = await scenario();
  await enqueue(s, 10);
  const [one, two] = [await s.consumer(), await s.consumer()];
  const theirs = await two.dequeueMany(2);
  expect(await one.dequeueMany(4)).toHaveLength(4);
  await two.releaseMany(theirs);
  await change(s, `vt = now() - interval '1 hour'`, 'consumer_worker_id is null and read_ct = 1');
  expect(ns(await one.dequeueMany(6)).toSorted()).toEqual([0, 1, 6, 7, 8, 9]);
});

test('a message that comes before the floor is handled soon, though the backlog keeps all claims full', async () => {
  const s = await scenario();
  await enqueue(s, 3_000);
  const consumer = await s.consumer();
  const handledAt = new Map<number, number>();
  let last = 0;
  const run = running(
    consumer,
    async ({ payload: { n } }) => {
      handledAt.set(n, performance.now());
      if (n < 10_000) last = n;
      // So that the backlog lasts for some seconds.
      await new Promise((resolve) => setTimeout(resolve, 8));
    },
    { concurrency: 5, prefetch: 5 },
  );
  await eventually('a run in full swing', () => handledAt.size > 50);
  const from = performance.now();
  await putFirst(s, 10_000);
  await eventually('the message', () => handledAt.has(10_000), 5_000);
  expect(handledAt.get(10_000)! - from).toBeLessThan(2_000);
  expect(last).toBeLessThan(2_900);
  await run.stop();
});
