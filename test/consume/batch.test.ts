import { expect, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import {
  type BatchHandler,
  DeadLetter,
  InvalidOptionError,
  type Message,
  RetryAfter,
  type RunBatchOptions,
} from '../../src/index.js';
import type { Failure } from '../../src/consume/outcome.js';
import { numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import {
  dead,
  ending,
  enqueue,
  expectBetween,
  type Item,
  leased,
  ns,
  open,
  stored,
  summary,
} from './support.js';

/** Runs batches until every message is settled or waits for long. */
async function runBatches(s: Scenario, handler: BatchHandler<Item>, options: RunBatchOptions = {}) {
  const consumer = await s.consumer({ backoff: 500 });
  const failures: Failure[] = [];
  consumer.on('failed', (failure) => failures.push(failure));
  const run = ending((signal) => consumer.runBatch<Item>(handler, { signal, ...options }));
  await eventually('the end', async () => (await stored(s)).every((row) => row.archived || row.due > 200));
  return { ended: await run.stop(), failures };
}

test.each([
  { batchSize: 10, concurrency: 1, sizes: [10, 10, 10, 5] },
  { batchSize: 35, concurrency: 1, sizes: [35] },
  { batchSize: 1_000, concurrency: 2, sizes: [35] },
  { batchSize: 1, concurrency: 3, sizes: Array<number>(35).fill(1) },
])(
  'batches of $batchSize, $concurrency at once, are full while there is enough',
  async ({ sizes, ...options }) => {
    const s = await scenario();
    await enqueue(s, 35);
    const got: number[][] = [];
    const prefetch = options.batchSize;
    const handler = (messages: Message<Item>[]) => void got.push(ns(messages));
    const { ended } = await runBatches(s, handler, { ...options, prefetch });
    expect(ended).toEqual(summary({ done: 35 }));
    expect(got.map(({ length }) => length)).toEqual(sizes);
    expect(got.flat().toSorted((a, b) => a - b)).toEqual(numbers(35));
    if (options.concurrency === 1) expect(got.flat()).toEqual(numbers(35));
  },
);

test('as many batches are at work at once as wanted, and no more messages are held than that and the prefetch', async () => {
  const s = await scenario();
  await enqueue(s, 100);
  const consumer = await s.consumer();
  const gate = deferred();
  const both = deferred();
  let active = 0;
  let most = 0;
  const run = ending((signal) =>
    consumer.runBatch<Item>(
      async () => {
        most = Math.max(most, ++active);
        if (active === 2) both.resolve();
        await gate.promise;
        active--;
      },
      { signal, batchSize: 10, concurrency: 2, prefetch: 5 },
    ),
  );
  await within(10_000, 'two batches', both.promise);
  await eventually('what may be held', async () => (await leased(s)) === 30);
  expect(await (await s.consumer()).dequeueMany(100)).toHaveLength(70);
  gate.resolve();
  await eventually('the end', async () => (await leased(s)) === 70);
  expect(await run.stop()).toEqual(summary({ done: 30 }));
  expect(most).toBe(2);
});

test('each message of a batch becomes what its entry says', async () => {
  const s = await scenario();
  await enqueue(s, 7);
  const error = new Error('again');
  const entries = [
    undefined,
    error,
    new DeadLetter('never', { cause: error }),
    new RetryAfter(3_000.5),
    { error: 'an object is no Error' },
    null,
    new RetryAfter(0.1),
  ];
  let batches = 0;
  const { ended, failures } = await runBatches(s, (messages) => {
    batches++;
    return messages.length === 7 ? entries : undefined;
  });
  expect(batches).toBeGreaterThan(0);
  // The last one came again soon.
  expect(ended).toEqual(summary({ done: 4, retried: 3, dead: 1 }));
  const rows = await stored(s);
  expect(rows.map(({ archived }) => archived)).toEqual([true, false, true, false, true, true, true]);
  expectBetween(rows[1]!.due, 500, 500);
  expectBetween(rows[3]!.due, 3_000.5, 3_000.5);
  expect(await dead(s)).toMatchObject([{ messageId: rows[2]!.id, reason: 'never', attempts: 1 }]);
  expect(failures.map(({ message, error }) => [message.id, error])).toEqual(
    [1, 2, 3, 6].map((n) => [rows[n]!.id, entries[n]]),
  );
  expect(failures.map(({ retrySeconds }) => retrySeconds)).toEqual([500, undefined, 3_000.5, 0.1]);
});

test.each<[string, BatchHandler<Item>]>([
  ['throws', () => Promise.reject(new Error('all of them'))],
  [
    'throws at once',
    () => {
      throw new Error('all of them');
    },
  ],
])('a batch whose handler %s has failed as a whole', async (_what, handler) => {
  const s = await scenario();
  await enqueue(s, 5);
  const { ended, failures } = await runBatches(s, handler);
  expect(ended).toEqual(summary({ retried: 5 }));
  expect(failures.map(({ error }) => (error as Error).message)).toEqual(Array(5).fill('all of them'));
  for (const row of await stored(s)) {
    expect(row).toMatchObject({ archived: false, consumer: null, readCount: 1 });
    expectBetween(row.due, 500, 500);
  }
});

test('a DeadLetter that a batch throws is for all its messages', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  const { ended } = await runBatches(s, () => {
    throw new DeadLetter('a bad day');
  });
  expect(ended).toEqual(summary({ dead: 3 }));
  expect((await dead(s)).map(({ reason }) => reason)).toEqual(Array(3).fill('a bad day'));
});

test.each([0, 2, 4])(
  'an answer of %s entries for three messages is a failure of them all',
  async (length) => {
    const s = await scenario();
    await enqueue(s, 3);
    const { ended, failures } = await runBatches(s, () => Array<undefined>(length).fill(undefined));
    expect(ended).toEqual(summary({ retried: 3 }));
    expect(failures).toHaveLength(3);
    for (const { error } of failures) {
      expect(error).toBeInstanceOf(InvalidOptionError);
      expect((error as Error).message).toBe(
        `what the batch handler returns must be nothing, or an array with an entry for each of its 3 messages, got an array of ${length}`,
      );
    }
    expect(await open(s)).toBe(3);
  },
);

test.each([undefined, null, 'done', 5, {}])('a batch whose handler answers %s is done', async (answer) => {
  const s = await scenario();
  await enqueue(s, 4);
  const { ended } = await runBatches(s, () => answer, { onSuccess: 'delete' });
  expect(ended).toEqual(summary({ done: 4 }));
  expect(await stored(s)).toEqual([]);
});

test('a batch of which a lease is lost hears of it, and keeps the others', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  const consumer = await s.consumer({ pollIntervalMs: 3_600_000 });
  const lost: string[] = [];
  consumer.on('leaseLost', (message) => lost.push(message.id));
  const run = ending((signal) =>
    consumer.runBatch<Item>(
      async (_messages, { signal }) => {
        await s.pool.query(
          `update ${s.schema}.pgqrs_messages set consumer_worker_id = null, vt = now() + interval '1 hour'
           where payload->>'n' = '1'`,
        );
        await eventually('the abort', () => signal.aborted);
      },
      { signal, lockSeconds: 0.5 },
    ),
  );
  await eventually('the others', async () => (await open(s)) === 1);
  expect(await run.stop()).toEqual(summary({ done: 2, lost: 1 }));
  const rows = await stored(s);
  expect(lost).toEqual([rows[1]!.id]);
  expect(rows.map(({ archived }) => archived)).toEqual([true, false, true]);
});
