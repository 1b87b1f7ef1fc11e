import { once } from 'node:events';
import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import type { Message } from '../../src/index.js';
import { numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';
import {
  change,
  enqueue,
  type Item,
  leased,
  PATIENT,
  running,
  runToEnd,
  stored,
  summary,
} from './support.js';

test.each([
  { concurrency: 1, prefetch: 0 },
  { concurrency: 1, prefetch: 7 },
  { concurrency: 4, prefetch: 0 },
  { concurrency: 4, prefetch: 3 },
  { concurrency: 7, prefetch: 20 },
])('of $concurrency handlers all are at work, and never one more (prefetch $prefetch)', async (options) => {
  const s = await scenario();
  await enqueue(s, 60);
  const consumer = await s.consumer();
  const all = deferred();
  const handled: number[] = [];
  let active = 0;
  let most = 0;
  const run = running(
    consumer,
    async ({ payload: { n } }) => {
      most = Math.max(most, ++active);
      if (active === options.concurrency) all.resolve();
      await all.promise;
      for (let turns = n % 5; turns >= 0; turns--) await turn();
      active--;
      handled.push(n);
    },
    options,
  );
  await within(10_000, 'as many handlers as wanted', all.promise);
  await eventually('all messages', () => handled.length >= 60);
  expect(await run.stop()).toEqual(summary({ done: 60 }));
  expect(handled.toSorted((a, b) => a - b)).toEqual(numbers(60));
  expect(most).toBe(options.concurrency);
});

test.each([
  { concurrency: 3, prefetch: 0, held: 3 },
  { concurrency: 3, prefetch: 5, held: 8 },
  { concurrency: 2, prefetch: undefined, held: 4 },
])(
  'with $concurrency handlers and a prefetch of $prefetch $held messages are held, the others are free',
  async ({ held, ...given }) => {
    const s = await scenario();
    await enqueue(s, 50);
    const consumer = await s.consumer();
    const gate = deferred();
    const { prefetch, concurrency } = given;
    const options = prefetch === undefined ? { concurrency } : { concurrency, prefetch };
    const run = running(consumer, () => gate.promise, options);
    await eventually('all that may be held', async () => (await leased(s)) === held);
    const others = await (await s.consumer()).dequeueMany(100);
    expect(others).toHaveLength(50 - held);
    gate.resolve();
    await eventually('what was held', async () => (await leased(s)) === others.length);
    expect(await run.stop()).toEqual(summary({ done: held }));
  },
);

test.each(['archive', 'delete'] as const)(
  'a message whose handler returns is settled: %s',
  async (onSuccess) => {
    const s = await scenario();
    await enqueue(s, 12);
    const consumer = await s.consumer();
    let got: Message<Item> | undefined;
    const done = await runToEnd(
      s,
      consumer,
      (message) => {
        got = message;
        return message.payload.n % 2 === 0 ? Promise.resolve('whatever') : new Error('returned, not thrown');
      },
      { onSuccess },
    );
    expect(done).toEqual(summary({ done: 12 }));
    expect(got).toMatchObject({ queueId: s.queue.id, readCount: 1, consumerWorkerId: consumer.workerId });
    const rows = await stored(s);
    expect(rows).toHaveLength(onSuccess === 'archive' ? 12 : 0);
    for (const row of rows)
      expect(row).toMatchObject({ archived: true, readCount: 1, consumer: consumer.workerId });
  },
);

test('one handler at a time gets the messages in the order of their being due', async () => {
  const s = await scenario();
  await enqueue(s, 40);
  await change(s, `vt = now() - id * interval '1 second'`);
  const consumer = await s.consumer();
  const handled: number[] = [];
  await runToEnd(s, consumer, ({ payload }) => void handled.push(payload.n), { concurrency: 1, prefetch: 6 });
  expect(handled).toEqual(numbers(40).toReversed());
});

test('a run that waits hears of new messages, though it never polls', async () => {
  const s = await scenario();
  const consumer = await s.consumer(PATIENT);
  const listening = once(consumer, 'listening');
  const handled: number[] = [];
  const run = running(consumer, ({ payload }) => void handled.push(payload.n));
  await listening;
  for (let n = 0; n < 3; n++) {
    await enqueue(s, 1, n);
    await eventually('the message', () => handled.length === n + 1);
  }
  expect(await run.stop()).toEqual(summary({ done: 3 }));
  expect(handled).toEqual([0, 1, 2]);
});

test('two runs of one consumer share its queue', async () => {
  const s = await scenario();
  await enqueue(s, 40);
  const consumer = await s.consumer();
  const handled: number[][] = [[], []];
  const bothAtWork = deferred();
  const runs = handled.map((mine) =>
    running(
      consumer,
      async ({ payload }) => {
        mine.push(payload.n);
        if (handled.every(({ length }) => length > 0)) bothAtWork.resolve();
        await bothAtWork.promise;
      },
      { concurrency: 2 },
    ),
  );
  await eventually('all messages', () => handled.flat().length === 40);
  const [one, two] = await Promise.all(runs.map((run) => run.stop()));
  expect(one!.done + two!.done).toBe(40);
  expect(handled.flat().toSorted((a, b) => a - b)).toEqual(numbers(40));
});

test('a thousand messages take few statements', async () => {
  const s = await scenario();
  await enqueue(s, 1_000);
  const { sluice, count } = await spied(s);
  const consumer = await sluice.consumer('work');
  let handled = 0;
  const run = running(consumer, () => ++handled, { concurrency: 50, prefetch: 50 });
  await eventually('all messages', () => handled === 1_000);
  expect(await run.stop()).toEqual(summary({ done: 1_000 }));
  const claims = count('claim_messages') + count('claim_messages_and_archive');
  expect(claims + count('archive_messages')).toBeLessThan(120);
});
