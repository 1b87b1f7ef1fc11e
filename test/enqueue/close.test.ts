import { expect, test, vi } from 'vitest';
import { ClosedError, type Producer } from '../../src/index.js';
import { behindProxy } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { failureOf, lockMessages, order } from './support.js';

const numbers = (count: number) => Array.from({ length: count }, (_, n) => n);

/** Every way to put single messages in. */
const WAYS: [string, (producer: Producer) => Promise<unknown>][] = [
  ['enqueue', (producer) => producer.enqueue({ n: -1 })],
  ['enqueueDelayed', (producer) => producer.enqueueDelayed({ n: -1 }, 5)],
  ['batchEnqueue', (producer) => producer.batchEnqueue([{ n: -1 }, { n: -1 }])],
];

test('calls that were made before close() are sent and resolve, and close() waits for them', async () => {
  const s = await scenario();
  for (const [round, options] of [{}, { maxEnqueuePerSecond: 1e6, maxEnqueueBurst: 10_000 }].entries()) {
    const producer = await s.producer(options);
    const calls = Promise.allSettled([
      ...numbers(300).map((n) => producer.enqueue({ n })),
      producer.batchEnqueue([{ n: 300 }, { n: 301 }]),
    ]);
    await within(10_000, 'close', producer.close());
    const failed = (await calls).filter(({ status }) => status === 'rejected');
    expect(failed.slice(0, 3)).toEqual([]);
    expect((await order(s)).sort((a, b) => a - b)).toEqual(numbers(302));
    if (round === 0) await s.sluice.admin.purgeQueue('work');
  }
});

test('calls that wait behind a statement when close() comes are sent too', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const letGo = await lockMessages(s);
  const calls = [producer.enqueue({ n: 0 })];
  await new Promise((resolve) => setImmediate(resolve));
  calls.push(...numbers(50).map((n) => producer.enqueue({ n: n + 1 })));
  await new Promise((resolve) => setImmediate(resolve));
  let closed = false;
  const closing = producer.close().then(() => (closed = true));
  await s.pool.query('select 1');
  expect(closed).toBe(false);
  await letGo();
  await within(10_000, 'close', closing);
  await Promise.all(calls);
  expect(await order(s)).toEqual(numbers(51));
});

test('close() ends however many tasks go on enqueueing, and what they were told is true', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const inserted: number[] = [];
  const failures: unknown[] = [];
  let next = 0;
  const tasks = numbers(100).map(async () => {
    for (;;) {
      const n = next++;
      try {
        await producer.enqueue({ n });
        inserted.push(n);
      } catch (error) {
        failures.push(error);
        return;
      }
    }
  });
  await eventually('some messages', () => inserted.length > 500);
  await within(10_000, 'close', producer.close());
  await within(1_000, 'the tasks', Promise.all(tasks));
  expect(failures).toHaveLength(100);
  for (const failure of failures) expect(failure).toBeInstanceOf(ClosedError);
  expect((await order(s)).sort((a, b) => a - b)).toEqual(inserted.sort((a, b) => a - b));
});

test('a call of the same turn as close() does not wait for the rate limit either', async () => {
  const s = await scenario();
  const producer = await s.producer({ maxEnqueuePerSecond: 0.001, maxEnqueueBurst: 1 });
  await producer.enqueue({ n: 0 });
  const call = producer.enqueue({ n: 1 });
  call.catch(() => undefined);
  await within(5_000, 'close', producer.close());
  expect(await failureOf(call, 1_000)).toBeInstanceOf(ClosedError);
});

test('calls that wait for the rate limit end with a ClosedError at once', async () => {
  const s = await scenario();
  const producer = await s.producer({ maxEnqueuePerSecond: 0.001 });
  await producer.batchEnqueue(numbers(50).map((n) => ({ n })));
  const waiting = WAYS.map(([, call]) => call(producer));
  for (const call of waiting) call.catch(() => undefined);
  await new Promise((resolve) => setImmediate(resolve));
  const closing = producer.close();
  for (const call of waiting) expect(await failureOf(call, 1_000)).toBeInstanceOf(ClosedError);
  await within(5_000, 'close', closing);
  expect(await s.count()).toBe(50);
});

test('close() twice is one close, and afterwards every way in says that it is closed', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const call = producer.enqueue({ n: 0 });
  await Promise.all([producer.close(), producer.close()]);
  await producer.close();
  await call;
  for (const [, way] of WAYS) expect(await failureOf(way(producer))).toBeInstanceOf(ClosedError);
  for (const change of [
    () => producer.cancel('1'),
    () => producer.reschedule('1', { delaySeconds: 1 }),
    () => producer.extendVisibility('1', 1),
    () => producer.ingest([1]),
  ]) {
    expect(await failureOf(change())).toBeInstanceOf(ClosedError);
  }
  expect(() => producer.writable()).toThrow(ClosedError);
  expect(await order(s)).toEqual([0]);
  await s.sluice.close();
  for (const [, way] of WAYS) expect(await failureOf(way(producer))).toBeInstanceOf(ClosedError);
});

test('a suspended producer refuses, a resumed one goes on, one that was shut down is closed', async () => {
  const s = await scenario();
  const producer = await s.producer({ maxEnqueuePerSecond: 1e6, maxEnqueueBurst: 10 });
  await producer.suspend();
  for (const [, way] of WAYS) {
    expect(await failureOf(way(producer))).toMatchObject({ code: 'WORKER_SUSPENDED', status: 'suspended' });
  }
  expect(() => producer.writable()).toThrow('suspended');
  expect(producer.rateLimit!.available).toBe(10);
  await producer.resume();
  await producer.enqueue({ n: 0 });
  // What is under way when the suspension comes has been accepted before it.
  const letGo = await lockMessages(s);
  const under = producer.enqueue({ n: 1 });
  await new Promise((resolve) => setImmediate(resolve));
  await producer.suspend();
  await letGo();
  await within(5_000, 'the call under way', under);
  await producer.shutdown();
  for (const [, way] of WAYS) expect(await failureOf(way(producer))).toBeInstanceOf(ClosedError);
  await producer.close();
  expect(await order(s)).toEqual([0, 1]);
});

test('a call that is made while its payload’s schema still thinks is settled by close(), one way or the other', async () => {
  const s = await scenario();
  let decide!: () => void;
  const decided = new Promise<void>((resolve) => (decide = resolve));
  const producer = await s.producer({
    schema: {
      '~standard': {
        version: 1,
        vendor: 'test',
        validate: async (value: unknown) => {
          await decided;
          return { value };
        },
      },
    },
  });
  const call = producer.enqueue({ n: 0 }).then(
    () => 'in',
    (error: unknown) => error,
  );
  const closing = producer.close();
  decide();
  const outcome = await within(5_000, 'the call', call);
  await within(5_000, 'close', closing);
  if (outcome !== 'in') expect(outcome).toBeInstanceOf(ClosedError);
  expect(await s.count()).toBe(outcome === 'in' ? 1 : 0);
});

test('close() during a black hole ends within a bound, and every call is told that it may be in', async () => {
  const { sluiceThrough, proxy, count } = await behindProxy();
  const through = await sluiceThrough.producer('work', { retries: 0 });
  proxy.judge = () => 'hole';
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    const calls = numbers(5).map((n) => through.enqueue({ n }));
    await new Promise((resolve) => setImmediate(resolve));
    calls.push(through.enqueue({ n: 5 }), through.batchEnqueue([{ n: 6 }, { n: 7 }]) as never);
    await new Promise((resolve) => setImmediate(resolve));
    let seconds = 0;
    const outcomes = Promise.allSettled(calls);
    let closed = false;
    const closing = through
      .close()
      .catch((error: unknown) => expect(error).toMatchObject({ code: 'TIMEOUT' }))
      .finally(() => (closed = true));
    await eventually(
      'the end, with a hundred seconds to each of ours',
      () => {
        vi.advanceTimersByTime(1_000);
        return closed || ++seconds > 100;
      },
      20_000,
    );
    expect(seconds).toBeLessThan(80);
    await closing;
    for (const outcome of await within(5_000, 'the calls', outcomes)) {
      expect(outcome.status).toBe('rejected');
      expect((outcome as PromiseRejectedResult).reason).toMatchObject({
        code: expect.stringMatching(/^(AMBIGUOUS_ENQUEUE|CONNECTION_FAILED)$/) as string,
      });
    }
  } finally {
    vi.useRealTimers();
    proxy.judge = () => 'pass';
    proxy.cutAll();
  }
  expect(await count()).toBe(0);
});
