import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { connect, LeaseLostError, type Message } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { startProxy } from '../support/proxy.js';
import { scenario } from '../support/scenario.js';
import { change, enqueue, type Item, ns, open, PATIENT, running, stored, summary } from './support.js';

/** So that a lease is over soon; a busy machine must still be able to renew it in time. */
const LOCK = { lockSeconds: 0.6 };

test('a handler that takes ten times as long as its lease has its message to itself', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  const handled: number[] = [];
  const handler = async ({ payload: { n } }: Message<Item>) => {
    handled.push(n);
    if (n === 0)
      await eventually('ten leases', async () => (await stored(s))[0]!.lease > 10 * LOCK.lockSeconds);
  };
  const runs = [
    running(await s.consumer({ pollIntervalMs: 50 }), handler, LOCK),
    running(await s.consumer({ pollIntervalMs: 50 }), handler, LOCK),
  ];
  await eventually('the end', async () => (await open(s)) === 0, 20_000);
  const [one, two] = await Promise.all(runs.map((run) => run.stop()));
  expect(one!.done + two!.done).toBe(3);
  expect(handled.toSorted()).toEqual([0, 1, 2]);
  expect((await stored(s)).map(({ readCount }) => readCount)).toEqual([1, 1, 1]);
});

test('messages that wait for a handler keep their leases', async () => {
  const s = await scenario();
  await enqueue(s, 6);
  const consumer = await s.consumer();
  const gate = deferred();
  const handled: number[] = [];
  const run = running(
    consumer,
    ({ payload: { n } }) => {
      handled.push(n);
      return gate.promise;
    },
    { ...LOCK, concurrency: 1, prefetch: 5 },
  );
  await eventually('five leases of each', async () =>
    (await stored(s)).every(({ lease }) => lease > 5 * LOCK.lockSeconds),
  );
  expect(await (await s.consumer()).dequeueMany(10)).toEqual([]);
  gate.resolve();
  await eventually('all of them', async () => (await open(s)) === 0);
  expect(await run.stop()).toEqual(summary({ done: 6 }));
  expect(handled).toEqual([0, 1, 2, 3, 4, 5]);
  expect((await stored(s)).map(({ readCount }) => readCount)).toEqual([1, 1, 1, 1, 1, 1]);
});

test.each(['returns', 'throws'])(
  'a lease that is taken away aborts the signal, and a handler that then %s changes nothing',
  async (how) => {
    const s = await scenario();
    await enqueue(s, 1);
    const consumer = await s.consumer(PATIENT);
    const other = await s.consumer();
    const lost: [Message, LeaseLostError | undefined][] = [];
    consumer.on('leaseLost', (...event) => lost.push(event)).on('failed', () => expect.unreachable());
    let theirs: Message | undefined;
    const reasons: unknown[] = [];
    const run = running(
      consumer,
      async (_message, { signal }) => {
        // A renewal may come in between.
        theirs = await eventually('the other one has it', async () => {
          await change(s, `vt = now() - interval '1 second'`);
          return other.dequeue({ lockSeconds: 1_000 });
        });
        await eventually('the abort', () => signal.aborted);
        reasons.push(signal.reason);
        if (how === 'throws') signal.throwIfAborted();
      },
      { ...LOCK, concurrency: 1, prefetch: 0 }, // or this run might be the one that takes it
    );
    await eventually('the event', () => lost.length === 1);
    expect(await run.stop()).toEqual(summary({ lost: 1 }));
    expect(reasons).toEqual([lost[0]![1]]);
    expect(lost[0]![0]).toMatchObject({ id: theirs!.id, readCount: 1 });
    expect(lost[0]![1]).toBeInstanceOf(LeaseLostError);
    expect(lost[0]![1]).toMatchObject({ code: 'LEASE_LOST', messageId: theirs!.id });
    expect((await stored(s))[0]).toMatchObject({ archived: false, readCount: 2, consumer: other.workerId });
    expect(await theirs!.archive()).toBe(true);
  },
);

test('messages that an operator releases are lost to the handlers that have them, and come again', async () => {
  const s = await scenario();
  await enqueue(s, 2);
  const consumer = await s.consumer({ pollIntervalMs: 50 });
  const reasons: unknown[] = [];
  const run = running(
    consumer,
    async ({ payload: { n }, readCount }, { signal }) => {
      if (readCount > 1) return;
      if (n === 1) {
        await eventually('both at work', async () => (await stored(s)).every(({ consumer }) => consumer));
        await s.sluice.admin.releaseWorkerMessages(consumer.workerId);
      }
      await eventually('the abort', () => signal.aborted);
      reasons.push(signal.reason);
    },
    { ...LOCK, concurrency: 4 },
  );
  await eventually('both', async () => reasons.length === 2 && (await open(s)) === 0);
  expect(await run.stop()).toEqual(summary({ done: 2, lost: 2 }));
  for (const reason of reasons) expect(reason).toBeInstanceOf(LeaseLostError);
  expect((await stored(s)).map(({ readCount }) => readCount)).toEqual([2, 2]);
});

async function behindProxy(lockSeconds: number) {
  const s = await scenario();
  await enqueue(s, 1);
  const proxy = await startProxy(s.url);
  const sluice = await connect({ dsn: proxy.url, schema: s.schema, connectionTimeoutSeconds: 4 });
  onTestFinished(async () => {
    proxy.judge = () => 'pass';
    proxy.door = 'open';
    await sluice.close().catch(() => undefined);
    await proxy[Symbol.asyncDispose]();
  });
  const consumer = await sluice.consumer('work', { ...PATIENT, lockSeconds });
  return { s, proxy, consumer };
}

test('a server that is out of reach until the lease is over aborts the signal; the message is free', async () => {
  const { s, proxy, consumer } = await behindProxy(1);
  const aborted = deferred<unknown>();
  let lost = 0;
  consumer.on('leaseLost', () => lost++);
  const run = running(consumer, async (_message, { signal }) => {
    proxy.judge = () => 'hole';
    proxy.door = 'hole';
    signal.addEventListener('abort', () => aborted.resolve(signal.reason));
    await aborted.promise;
    throw signal.reason;
  });
  expect(await within(8_000, 'the abort', aborted.promise)).toBeInstanceOf(LeaseLostError);
  const other = await s.consumer();
  const theirs = await eventually('a free message', () => other.dequeue({ lockSeconds: 1_000 }));
  expect(theirs.readCount).toBe(2);
  proxy.judge = () => 'pass';
  proxy.door = 'open';
  proxy.cutAll();
  await eventually('the loss', () => lost === 1);
  expect(await run.stop()).toEqual(summary({ lost: 1 }));
  expect((await stored(s))[0]).toMatchObject({ readCount: 2, consumer: theirs.consumerWorkerId });
});

test('a server that is out of reach for less than that does not', async () => {
  const { s, proxy, consumer } = await behindProxy(3);
  const errors: Error[] = [];
  consumer.on('claimError', (error) => errors.push(error));
  let aborted = false;
  const run = running(consumer, async (_message, { signal }) => {
    signal.addEventListener('abort', () => (aborted = true));
    proxy.door = 'shut';
    proxy.cutAll();
    await eventually('a renewal that failed', () => errors.length > 0);
    proxy.door = 'open';
    await eventually('the next lease', async () => (await stored(s))[0]!.lease > 4);
  });
  await eventually('the end', async () => (await open(s)) === 0);
  expect(await run.stop()).toEqual(summary({ done: 1 }));
  expect(aborted).toBe(false);
  expect((await stored(s))[0]).toMatchObject({ readCount: 1 });
});

test('extend() makes the lease last that long, and answers whether it was held', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer(PATIENT);
  const answers: boolean[] = [];
  const leases: number[] = [];
  const run = running(consumer, async (_message, context) => {
    for (const seconds of [100, 50]) {
      answers.push(await context.extend(seconds));
      leases.push((await stored(s))[0]!.due);
    }
    await change(s, 'consumer_worker_id = null');
    answers.push(await context.extend(500));
    leases.push((await stored(s))[0]!.due);
  });
  await eventually('three answers', () => leases.length === 3);
  expect(await run.stop()).toEqual(summary({ lost: 1 }));
  expect(answers).toEqual([true, true, false]);
  for (const lease of leases) expect(lease).toSatisfy((seconds: number) => seconds > 90 && seconds <= 100);
});

test("a message locked by somebody's transaction keeps its lease for this process, and the others theirs", async () => {
  const s = await scenario();
  // Long enough for a busy machine to renew the other's in time.
  const lock = { lockSeconds: 2 };
  await enqueue(s, 2);
  const consumer = await s.consumer(PATIENT);
  const other = await s.consumer();
  const client = new pg.Client({ connectionString: s.url });
  await client.connect();
  onTestFinished(() => client.end());
  const aborted: number[] = [];
  let locked = false;
  const found: Message[] = [];
  const run = running(
    consumer,
    async (message, { signal }) => {
      const { n } = message.payload;
      signal.addEventListener('abort', () => aborted.push(n));
      if (n === 0) {
        await client.query('begin');
        expect(await message.archive({ client })).toBe(true);
        locked = true;
        await eventually(
          'a lease that has run out, beside one that has not',
          async () => {
            const [mine, theirs] = await stored(s);
            found.push(...(await other.dequeueMany(2)));
            return mine!.due < -lock.lockSeconds && theirs!.lease > 2 * lock.lockSeconds;
          },
          20_000,
        );
        expect(aborted).toEqual([]);
        await client.query('commit');
      } else {
        await eventually('the other', async () => locked && (await stored(s))[0]!.archived, 20_000);
      }
    },
    { ...lock, concurrency: 2 },
  );
  await eventually('the end', async () => (await open(s)) === 0, 40_000);
  const { retried, dead, released } = await run.stop();
  expect({ retried, dead, released }).toEqual({ retried: 0, dead: 0, released: 0 });
  expect(ns(found)).toEqual([]);
  expect((await stored(s)).map(({ readCount, archived }) => [readCount, archived])).toEqual([
    [1, true],
    [1, true],
  ]);
});
