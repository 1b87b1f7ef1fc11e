import { expect, test } from 'vitest';
import { type Deferred, deferred } from '../../src/deferred.js';
import {
  type Consumer,
  type Handler,
  type Message,
  type RunOptions,
  ShutdownError,
} from '../../src/index.js';
import { numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';
import { row } from '../support/worker-rows.js';
import { dead, enqueue, type Item, leased, ns, open, PATIENT, running, stored, summary } from './support.js';

/** A run of which `atWork` handlers wait for the gate, and whose other messages wait for a handler. */
async function atWork(s: Scenario, consumer: Consumer, shutdownSeconds = 30) {
  await enqueue(s, 10);
  const gate: Deferred<void> = deferred();
  const handled: number[] = [];
  const run = running(
    consumer,
    async ({ payload: { n } }) => {
      handled.push(n);
      await gate.promise;
    },
    { concurrency: 2, prefetch: 4, shutdownSeconds, lockSeconds: 1_000 },
  );
  await eventually('all that may be held', async () => (await leased(s)) === 6);
  return { run, gate, handled };
}

const endings: Record<string, (run: ReturnType<typeof running>, consumer: Consumer) => unknown> = {
  'its signal': (run) => void run.stop().catch(() => undefined),
  'close()': (_run, consumer) => void consumer.close(),
  'await using': async (_run, consumer) => {
    await using same = consumer;
    expect(same).toBe(consumer);
  },
};

test.each(Object.entries(endings))('%s ends a run that waits at once', async (_name, end) => {
  const s = await scenario();
  const { sluice, count } = await spied(s, { pollIntervalMs: 3_600_000 });
  const consumer = await sluice.consumer('work');
  const run = running(consumer, () => expect.unreachable());
  await eventually('a look', () => count('next_due') > 0);
  void end(run, consumer);
  expect(await within(3_000, 'the end', run.ended)).toEqual(summary({}));
});

test.each(Object.entries(endings))(
  'after %s the handlers at work may end, and what waits goes back uncounted and in its place',
  async (_name, end) => {
    const s = await scenario();
    const consumer = await s.consumer();
    const { run, gate, handled } = await atWork(s, consumer);
    void end(run, consumer);
    await eventually('four messages back', async () => (await leased(s)) === 2);
    const rows = await stored(s);
    expect(rows.slice(2).map(({ readCount, consumer, due }) => [readCount, consumer, due <= 0])).toEqual(
      Array(8).fill([0, null, true]),
    );
    gate.resolve();
    expect(await within(5_000, 'the end', run.ended)).toEqual(summary({ done: 2 }));
    expect(handled.toSorted()).toEqual([0, 1]);
    expect((await stored(s)).map(({ archived }) => archived)).toEqual(numbers(10).map((n) => n < 2));
    const next = await (await s.consumer()).dequeueMany(100);
    expect(ns(next)).toEqual([2, 3, 4, 5, 6, 7, 8, 9]);
    expect(next.every(({ readCount, dequeuedAt }) => readCount === 1 && dequeuedAt !== null)).toBe(true);
  },
);

test('a message that failed before goes back as it was', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  await s.pool.query(
    `update ${s.schema}.pgqrs_messages set read_ct = 2, dequeued_at = now() - interval '1 hour'`,
  );
  const consumer = await s.consumer();
  const gate = deferred();
  const run = running(consumer, () => gate.promise, { concurrency: 1, prefetch: 2 });
  await eventually('all that may be held', async () => (await leased(s)) === 3);
  const stopping = run.stop();
  await eventually('two back', async () => (await leased(s)) === 1);
  gate.resolve();
  await stopping;
  const rows = await stored(s);
  expect(rows.map(({ readCount }) => readCount)).toEqual([3, 2, 2]);
  expect(rows[1]!.lease).toBeGreaterThan(3_500);
});

test('a handler over its time is told so; its message is back soon, and what it still does counts for nothing', async () => {
  const s = await scenario();
  const consumer = await s.consumer(PATIENT);
  consumer.on('failed', () => expect.unreachable()).on('leaseLost', () => expect.unreachable());
  await enqueue(s, 3);
  const gates = [deferred(), deferred(), deferred()];
  const reasons: unknown[] = [];
  let over = 0;
  const run = running(
    consumer,
    async ({ payload: { n } }, { signal }) => {
      signal.addEventListener('abort', () => reasons.push(signal.reason));
      await gates[n]!.promise.finally(() => over++);
    },
    { concurrency: 3, prefetch: 0, shutdownSeconds: 0.3, lockSeconds: 1_000 },
  );
  await eventually('all at work', async () => (await leased(s)) === 3);
  const from = performance.now();
  const ended = run.stop();
  gates[0]!.resolve();
  expect(await ended).toEqual(summary({ done: 1, released: 2 }));
  expect(performance.now() - from).toSatisfy((ms: number) => ms > 290 && ms < 8_000);
  expect(reasons).toHaveLength(2);
  expect(reasons[0]).toBeInstanceOf(ShutdownError);
  expect((reasons[0] as Error).message).toBe(
    'the handler did not end within the 0.3 s that a shutdown leaves; its message goes back into the queue',
  );
  const other = await s.consumer();
  const again = await other.dequeueMany(10, { lockSeconds: 1_000 });
  expect(ns(again)).toEqual([1, 2]);
  gates[1]!.resolve();
  gates[2]!.reject(new Error('too late'));
  await eventually('the end of the handlers', () => over === 3);
  expect(await other.archiveMany(again)).toEqual([true, true]);
  // Uncounted: this is their first delivery once more.
  expect((await stored(s)).map(({ readCount }) => readCount)).toEqual([1, 1, 1]);
});

test('a handler that stops when it is told to has not failed', async () => {
  const s = await scenario();
  const consumer = await s.consumer(PATIENT);
  consumer.on('failed', () => expect.unreachable());
  await enqueue(s, 1);
  const run = running(
    consumer,
    async (_message, { signal }) => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      signal.throwIfAborted();
    },
    { shutdownSeconds: 0 },
  );
  await eventually('the handler', async () => (await leased(s)) === 1);
  expect(await run.stop()).toEqual(summary({ released: 1 }));
  const [message] = await stored(s);
  expect(message).toMatchObject({ consumer: null, archived: false, readCount: 0 });
  expect(message!.due).toBeLessThanOrEqual(0);
});

test.each([false, true])(
  'a long job that every deploy interrupts is never a dead letter, and is done in the end (transactional: %s)',
  async (transactional) => {
    const s = await scenario();
    await enqueue(s, 1);
    const counts: number[] = [];
    const deploy = async (handler: Handler<Item>, end?: () => unknown) => {
      const consumer = await s.consumer({ ...PATIENT, maxReadCount: 2 });
      consumer.on('failed', () => expect.unreachable()).on('leaseLost', () => expect.unreachable());
      const controller = new AbortController();
      const { signal } = controller;
      const started = deferred();
      const ended = consumer.run<Item>(
        async (message, context) => {
          counts.push(message.readCount);
          started.resolve();
          await handler(message, context);
        },
        { signal, transactional, shutdownSeconds: 0 } as RunOptions,
      );
      await within(5_000, 'the handler', started.promise);
      if (end) await eventually('the end', async () => (await open(s)) === 0);
      controller.abort();
      const summary = await within(8_000, 'the end', ended);
      await consumer.close();
      return summary;
    };
    const gate = deferred();
    for (let n = 0; n < 5; n++) {
      // Some notice, and some do not.
      const interrupted = await deploy(async (_message, { signal }) => {
        if (n % 2 === 0) await gate.promise;
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        signal.throwIfAborted();
      });
      expect(interrupted).toEqual(summary({ released: 1 }));
      expect(await stored(s)).toMatchObject([{ readCount: 0, consumer: null, archived: false }]);
    }
    expect(
      await deploy(
        () => undefined,
        () => undefined,
      ),
    ).toEqual(summary({ done: 1 }));
    expect(counts).toEqual([1, 1, 1, 1, 1, 1]);
    expect(await dead(s)).toEqual([]);
    gate.resolve();
  },
);

test('what a handler does after its message was given back is not done to the next delivery, though that has its count', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer(PATIENT);
  const gate = deferred();
  const late: boolean[] = [];
  let first: Message<Item> | undefined;
  const run = running(
    consumer,
    async (message) => {
      first = message;
      await gate.promise;
      late.push(await message.extendVisibility(50), await message.archive(), await message.delete());
      late.push(await message.release({ delaySeconds: 100 }), await message.fail(new Error('late')));
    },
    { shutdownSeconds: 0, lockSeconds: 1_000 },
  );
  await eventually('the handler', () => first);
  expect(await run.stop()).toEqual(summary({ released: 1 }));
  const again = (await consumer.dequeue<Item>({ lockSeconds: 1_000 }))!;
  expect([again.id, again.readCount]).toEqual([first!.id, first!.readCount]);
  gate.resolve();
  await eventually('all that it still does', () => late.length === 5);
  expect(late).toEqual(Array(5).fill(false));
  expect(await again.archive()).toBe(true);
});

test('a transaction over its time is cut, and leaves nothing behind', async () => {
  const s = await scenario();
  await s.pool.query(`create table ${s.schema}.effects (n int)`);
  const consumer = await s.consumer(PATIENT);
  await enqueue(s, 1);
  const gate = deferred();
  const failed = deferred<unknown>();
  const controller = new AbortController();
  const ended = consumer.run(
    async (_message, { client }) => {
      await client.query(`insert into ${s.schema}.effects values (1)`);
      await gate.promise;
      await client.query('select 1').catch(failed.resolve);
    },
    { transactional: true, shutdownSeconds: 0, signal: controller.signal },
  );
  await eventually('the handler', async () => (await leased(s)) === 1);
  controller.abort();
  expect(await within(8_000, 'the end', ended)).toEqual(summary({ released: 1 }));
  gate.resolve();
  expect(await within(5_000, 'the error', failed.promise)).toBeInstanceOf(Error);
  expect((await s.pool.query(`select from ${s.schema}.effects`)).rows).toEqual([]);
  expect(await open(s)).toBe(1);
  expect(ns(await (await s.consumer()).dequeueMany(5))).toEqual([0]);
});

test('close() during runs ends them in order, before the worker; twice is fine', async () => {
  const s = await scenario();
  const consumer = await s.consumer();
  const { run, gate } = await atWork(s, consumer);
  const second = running(consumer, () => undefined);
  const closings = [consumer.close(), consumer.close()];
  await expect(consumer.run(() => undefined)).rejects.toMatchObject({ code: 'CLOSED' });
  await eventually('four messages back', async () => (await leased(s)) === 2);
  expect(await row(s, consumer.workerId)).toMatchObject({ status: 'ready' });
  gate.resolve();
  await within(8_000, 'closing', Promise.all(closings));
  const [one, two] = await Promise.all([run.ended, second.ended]);
  expect(one.done).toBe(2);
  expect(two.lost + two.released).toBe(0);
  expect(await row(s, consumer.workerId)).toMatchObject({ status: 'stopped', stopped: true });
  await consumer.close();
  await expect(consumer.runBatch(() => undefined)).rejects.toMatchObject({ code: 'CLOSED' });
});

test('nothing of a run that has ended is left: no wake, no statement, no listener on its signal', async () => {
  const s = await scenario();
  const { sluice, count } = await spied(s);
  const consumer = await sluice.consumer('work', PATIENT);
  const first = running(consumer, () => expect.unreachable());
  await eventually('a look', () => count('next_due') > 0);
  await first.stop();
  const claims = count('claim_messages');
  const second = running(consumer, () => undefined);
  await eventually('the second', () => count('claim_messages') > claims);
  await enqueue(s, 5);
  await eventually('its messages', async () => (await open(s)) === 0);
  expect(await second.stop()).toEqual(summary({ done: 5 }));
  expect(await first.ended).toEqual(summary({}));
});
