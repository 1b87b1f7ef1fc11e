import { expect, test } from 'vitest';
import { Floor, type Found, type Look } from '../../src/consume/floor.js';
import { numbers } from '../ingest/support.js';
import { eventually } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { change, enqueue, ns, running } from './support.js';

/** So many seconds after the beginning. */
const at = (seconds: number, id = '7') => ({ dueMicros: seconds * 1_000_000, id });

/** A floor whose time is told, and what its looks are said to have found. */
function told() {
  let nowMs = 0;
  const floor = new Floor(() => nowMs);
  const found = (look: Look, what: Partial<Found> = {}) =>
    floor.found(look, { last: undefined, isFull: false, more: false, tookMs: 0, ...what });
  const wait = (ms: number) => void (nowMs += ms);
  /** The kind of a look that is made now, and finds that. */
  const look = (what: Partial<Found> = {}) => {
    const next = floor.next();
    found(next, what);
    return next.kind;
  };
  return { floor, found, wait, look };
}

test('before anything was found every look begins at the beginning', () => {
  const { floor, look } = told();
  expect([look({ tookMs: 100 }), look({ tookMs: 100 })]).toEqual(['all', 'all']);
  expect(floor.nextLookMs).toBeUndefined();
});

test('a look begins behind the last message that was found, also after one that came back short', () => {
  const { floor, found, look } = told();
  expect(look({ last: at(20), isFull: true })).toBe('all');
  let next = floor.next();
  expect(next).toMatchObject({ kind: 'behind', place: at(20) });
  found(next, { last: at(21), tookMs: 3 });
  look({ tookMs: 3 }); // these two are due
  look({ tookMs: 3 });
  next = floor.next();
  expect(next).toMatchObject({ kind: 'behind', place: at(21) });
  found(next);
  expect(floor.next()).toMatchObject({ kind: 'behind', place: at(21) });
});

test('a short look before the floor leaves it where it is, a full one takes it back', () => {
  const { floor, found } = told();
  found(floor.next(), { last: at(20), isFull: true });
  found(floor.all(), { last: at(5) });
  expect(floor.waitsBehind).toEqual({ ...at(10), id: '0' });
  found(floor.all(), { last: at(5), isFull: true, tookMs: 1 });
  expect(floor.next()).toMatchObject({ kind: 'behind', place: at(5) });
  // Left there for their size, or as suspects.
  found(floor.next(), { last: undefined, isFull: true, more: true });
  expect(floor.next().place).toEqual(at(5));
  found(floor.all(), { last: undefined, isFull: true, more: true });
  expect(floor.next()).toMatchObject({ kind: 'all', place: undefined });
});

test('places are in the order of the index: by time, then by number', () => {
  const { floor, found } = told();
  found(floor.next(), { last: at(20, '9'), isFull: true });
  found(floor.all(), { last: at(20, '10'), tookMs: 1 });
  found(floor.all(), { last: at(20, '9'), tookMs: 1 });
  found(floor.next(), { tookMs: 1 });
  expect(floor.next()).toMatchObject({ kind: 'behind', place: at(20, '10') });
});

test('looks before the floor are spaced by ten times what they take', () => {
  const { wait, look } = told();
  look({ last: at(20) });
  const made: Record<string, number[]> = { all: [], recent: [], behind: [] };
  for (let ms = 0; ms < 10_000; ms += 10) {
    const kind = look({ tookMs: 5 });
    made[kind]!.push(ms);
    wait(10);
  }
  expect(made.all!.slice(0, 3)).toEqual([0, 50, 100]);

  const slow = told();
  slow.look({ last: at(20), tookMs: 400 });
  const times: Record<string, number[]> = { all: [], recent: [], behind: [] };
  for (let ms = 0; ms < 10_000; ms += 10) {
    const due = slow.floor.next();
    slow.found(due, { tookMs: { all: 400, recent: 20, behind: 1 }[due.kind] });
    times[due.kind]!.push(ms);
    slow.wait(10);
  }
  expect(times.all).toEqual([4_000, 8_000]);
  expect(times.recent!.slice(0, 4)).toEqual([0, 200, 400, 600]);
  expect(times.behind!.length).toBeGreaterThan(900);
});

test('while looks are full there is a second between those before the floor', () => {
  const { wait, look } = told();
  const made: Record<string, number[]> = { all: [], recent: [], behind: [] };
  for (let ms = 0; ms < 5_000; ms += 10) {
    made[look({ last: at(20), isFull: true, tookMs: 1 })]!.push(ms);
    wait(10);
  }
  expect(made.all).toEqual([0, 1_000, 2_000, 3_000, 4_000]);
  expect(made.recent).toEqual([]);
});

test('a recent look begins ten seconds before the floor', () => {
  const { floor, found } = told();
  found(floor.next(), { last: at(20), tookMs: 100 });
  expect(floor.next()).toMatchObject({ kind: 'recent', place: { ...at(10), id: '0' } });
});

test('a wait ends at the next look before the floor, and needs no end after one from the beginning', () => {
  const { floor, wait, look } = told();
  look({ last: at(20), tookMs: 400 });
  expect(floor.nextLookMs).toBeUndefined();
  look({ tookMs: 30 });
  expect(floor.nextLookMs).toBe(4_000);
  wait(100);
  expect(look({ tookMs: 1 })).toBe('behind');
  expect(floor.nextLookMs).toBe(200);
  wait(200);
  expect(look({ tookMs: 30 })).toBe('recent');
  expect(floor.nextLookMs).toBe(3_700);
  wait(3_700);
  expect(look({ tookMs: 300 })).toBe('all');
  expect(floor.nextLookMs).toBeUndefined();
});

test('a look that was under way when something was given back does not move the floor past it', () => {
  const { floor, found, look } = told();
  look({ last: at(20), isFull: true, tookMs: 1 });
  const underWay = floor.next();
  floor.reset();
  found(underWay, { last: at(30), isFull: true });
  expect(floor.next()).toMatchObject({ kind: 'all', place: undefined });
});

test('of two looks side by side the one that answers last does not take the floor back', () => {
  const { floor, found, look } = told();
  look({ last: at(20), isFull: true, tookMs: 1 });
  const [one, two] = [floor.next(), floor.next()];
  found(two, { last: at(22), isFull: true });
  found(one, { last: at(21), isFull: true });
  expect(floor.next().place).toEqual(at(22));
});

test('a look that the server has given up is spaced by what it took', () => {
  const { floor, wait, look } = told();
  look({ last: at(20) });
  floor.took(floor.all(), 5_000);
  look({ tookMs: 2_000 });
  wait(10_000);
  expect(look()).not.toBe('all');
  wait(40_000);
  expect(look()).toBe('all');
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
