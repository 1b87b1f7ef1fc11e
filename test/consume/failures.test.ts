import { once } from 'node:events';
import { expect, test } from 'vitest';
import { type ConsumerOptions, DeadLetter, InvalidOptionError, RetryAfter } from '../../src/index.js';
import type { Failure } from '../../src/consume/outcome.js';
import { within } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { change, dead, enqueue, expectBetween, running, stored, summary } from './support.js';

interface Failing extends ConsumerOptions {
  /** Deliveries before this one. */
  before?: number;
}

/** What becomes of a message whose handler throws that, or what a function throws. */
async function afterThrowing(thrown: unknown, { before = 0, ...options }: Failing = {}) {
  const s = await scenario();
  await enqueue(s, 1);
  await change(s, `read_ct = ${before}`);
  const consumer = await s.consumer(options);
  const failed = once(consumer, 'failed') as Promise<[Failure]>;
  const run = running(consumer, () => {
    if (typeof thrown === 'function') (thrown as () => void)();
    throw thrown;
  });
  const [failure] = await within(10_000, 'the failure', failed);
  const [row] = await stored(s);
  const ended = await run.stop();
  return { failure, row: row!, ended, dead: await dead(s), queueId: s.queue.id };
}

const ERROR = new Error('boom');

test.each<{ what: string; options: Failing; from: number; to: number }>([
  { what: 'the first wait', options: { backoff: { baseSeconds: 100 } }, from: 50, to: 100 },
  { what: 'the third', options: { backoff: { baseSeconds: 100 }, before: 2 }, from: 200, to: 400 },
  {
    what: 'the longest',
    options: { backoff: { baseSeconds: 100, maxSeconds: 120 }, before: 3 },
    from: 60,
    to: 120,
  },
  { what: 'the default', options: {}, from: 0.5, to: 1 },
  { what: 'always the same', options: { backoff: 40.5, before: 3 }, from: 40.5, to: 40.5 },
  { what: 'none', options: { backoff: 0 }, from: 0, to: 0 },
  { what: 'by a function', options: { backoff: (attempt) => attempt * 100, before: 2 }, from: 300, to: 300 },
])('a message whose handler throws waits: $what', async ({ options, from, to }) => {
  const { failure, row, ended, dead } = await afterThrowing(ERROR, options);
  const readCount = (options.before ?? 0) + 1;
  // Where it does not wait at all it may have been delivered again meanwhile.
  if (to > 10) {
    expect(row).toMatchObject({ readCount, consumer: null, archived: false });
    expectBetween(row.due, from, to);
    expect(ended).toEqual(summary({ retried: 1 }));
    expect(dead).toEqual([]);
  }
  expect(failure).toMatchObject({ deadReason: undefined, message: { id: row.id, readCount } });
  expect(failure.error).toBe(ERROR);
  expect(failure.retrySeconds).toBeGreaterThanOrEqual(from);
  expect(failure.retrySeconds).toBeLessThanOrEqual(to);
});

test('a back-off function is asked with the number of the attempt and the error', async () => {
  const asked: unknown[][] = [];
  const backoff = (...args: unknown[]) => asked.push(args) * 60;
  const { row } = await afterThrowing(ERROR, { backoff, before: 2 });
  expectBetween(row.due, 60, 60);
  expect(asked).toEqual([[3, ERROR]]);
  expect(asked[0]![1]).toBe(ERROR);
});

test.each<[string, () => unknown]>([
  ['throws', () => expect.unreachable()],
  ['answers NaN', () => Number.NaN],
  ['answers less than nothing', () => -1],
  ['answers a text', () => '5'],
  ['answers a promise', () => Promise.resolve(5)],
])('a message is not lost where the back-off function %s: it waits for a second', async (_what, backoff) => {
  const { failure, row, ended } = await afterThrowing(ERROR, { backoff: backoff as () => number });
  expect(failure).toMatchObject({ error: ERROR, retrySeconds: 1, deadReason: undefined });
  expect(row).toMatchObject({ readCount: 1, consumer: null, archived: false });
  expect(ended.dead + ended.lost).toBe(0);
});

test.each([
  [new RetryAfter(30.5), 30.5],
  [new RetryAfter(7_200, { cause: ERROR }), 7_200],
])('%s decides over the wait, whatever the back-off says', async (error, seconds) => {
  const { failure, row } = await afterThrowing(error, { backoff: 10_000 });
  expect(failure).toMatchObject({ retrySeconds: seconds, deadReason: undefined });
  expect(failure.error).toBe(error);
  expect(row).toMatchObject({ readCount: 1, consumer: null, archived: false });
  expectBetween(row.due, seconds, seconds);
});

test.each([Number('in a minute'), Number(null), -1, Infinity, 4_294_967_296, '5' as never])(
  'RetryAfter(%s) is refused where it is made: the message has failed, and waits as the back-off says',
  async (seconds) => {
    expect(() => new RetryAfter(seconds)).toThrow(InvalidOptionError);
    const { failure, row, dead } = await afterThrowing(
      () => {
        throw new RetryAfter(seconds);
      },
      { backoff: 400 },
    );
    expect(failure).toMatchObject({ retrySeconds: 400, error: { code: 'INVALID_OPTION' } });
    expect(row).toMatchObject({ readCount: 1, consumer: null, archived: false });
    expect(dead).toEqual([]);
  },
);

test('a RetryAfter of the last attempt makes no further one', async () => {
  const { failure, dead } = await afterThrowing(new RetryAfter(5), { before: 2, maxReadCount: 3 });
  expect(failure).toMatchObject({ retrySeconds: undefined, deadReason: 'exhausted' });
  expect(dead).toMatchObject([{ reason: 'exhausted', attempts: 3 }]);
});

test('a DeadLetter is dead at once, with its reason, its stack and that of its cause', async () => {
  const error = new DeadLetter('no such customer', { cause: new Error('404', { cause: 'not found' }) });
  const { failure, row, ended, ...found } = await afterThrowing(error, { maxReadCount: 100 });
  expect(row).toMatchObject({ archived: true, readCount: 1 });
  expect(ended).toEqual(summary({ dead: 1 }));
  expect(failure).toMatchObject({ retrySeconds: undefined, deadReason: 'no such customer' });
  expect(failure.error).toBe(error);
  expect(found.dead).toMatchObject([
    { messageId: row.id, queueId: found.queueId, reason: 'no such customer', attempts: 1, now: true },
  ]);
  const { lastError } = found.dead[0]!;
  expect(lastError).toMatch(/^DeadLetter: dead letter: no such customer\n {4}at /);
  expect(lastError).toMatch(/\ncaused by: Error: 404\n {4}at /);
  expect(lastError).toMatch(/\ncaused by: not found$/);
});

test('a message is dead after as many deliveries as allowed, and says what the last one failed with', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer({ maxReadCount: 3, backoff: 0 });
  const failures: Failure[] = [];
  const last = new Promise<void>((resolve) =>
    consumer.on('failed', (failure) => {
      failures.push(failure);
      if (failure.deadReason) resolve();
    }),
  );
  const run = running(consumer, ({ readCount }) => {
    throw new Error(`attempt ${readCount}`);
  });
  await within(10_000, 'the last attempt', last);
  expect(await run.stop()).toEqual(summary({ retried: 2, dead: 1 }));
  expect(failures.map(({ retrySeconds, deadReason }) => [retrySeconds, deadReason])).toEqual([
    [0, undefined],
    [0, undefined],
    [undefined, 'exhausted'],
  ]);
  const [row] = await stored(s);
  expect(row).toMatchObject({ archived: true, readCount: 3, consumer: consumer.workerId });
  const [letter] = await dead(s);
  expect(letter).toMatchObject({
    messageId: row!.id,
    queueId: s.queue.id,
    reason: 'exhausted',
    attempts: 3,
    now: true,
  });
  expect(letter!.lastError).toMatch(/^Error: attempt 3\n {4}at .*failures\.test\.ts/);
  expect(await (await s.consumer({ maxReadCount: 10 })).dequeue()).toBeUndefined();
});

test('texts that PostgreSQL cannot store are stored without what is in the way', async () => {
  const error = new DeadLetter('a\0b', { cause: new Error('c\0d \ud83d') });
  const { dead, failure } = await afterThrowing(error);
  expect(failure.deadReason).toBe('a\ufffdb');
  expect(dead[0]!.reason).toBe('a\ufffdb');
  expect(dead[0]!.lastError).toContain('Error: c\ufffdd \ufffd');
});

test('reason and error are cut where they are endless', async () => {
  const error = new DeadLetter('r'.repeat(5_000), { cause: 'e'.repeat(50_000) });
  const { dead } = await afterThrowing(error);
  expect(dead[0]!.reason).toBe('r'.repeat(1_000));
  expect(dead[0]!.lastError).toHaveLength(8_000);
});

test.each<[string, unknown, string]>([
  ['undefined', undefined, 'Error: the handler threw nothing'],
  ['null', null, 'Error: the handler threw nothing'],
  ['a string', 'just a text', 'just a text'],
  ['an empty string', '', ''],
  ['false', false, 'false'],
  ['an object', { code: 5 }, '[object Object]'],
])('a handler that throws %s has failed', async (_what, thrown, lastError) => {
  const { failure, row, ended, dead } = await afterThrowing(thrown, { maxReadCount: 1 });
  expect(ended).toEqual(summary({ dead: 1 }));
  expect(row).toMatchObject({ archived: true, readCount: 1 });
  expect(dead).toMatchObject([{ reason: 'exhausted', attempts: 1 }]);
  expect(dead[0]!.lastError!.split('\n')[0]).toBe(lastError);
  if (thrown !== undefined && thrown !== null) expect(failure.error).toBe(thrown);
});

test('failures of some hold up nobody: each gets what is its due', async () => {
  const s = await scenario();
  await enqueue(s, 30);
  const consumer = await s.consumer({ backoff: 500 });
  const failed: Failure[] = [];
  consumer.on('failed', (failure) => failed.push(failure));
  let handled = 0;
  const run = running(
    consumer,
    ({ payload: { n } }) => {
      handled++;
      if (n % 3 === 1) throw new Error('again');
      if (n % 3 === 2) throw new DeadLetter(`never ${n}`);
    },
    { concurrency: 5 },
  );
  while (handled < 30 || failed.length < 20) await once(consumer, 'failed');
  expect(await run.stop()).toEqual(summary({ done: 10, retried: 10, dead: 10 }));
  const rows = await stored(s);
  expect(rows.map(({ archived, due }) => [archived, due > 400])).toEqual(
    rows.map(({ n }) => [n % 3 !== 1, n % 3 === 1]),
  );
  const deadOnes = rows.filter(({ n }) => n % 3 === 2);
  expect((await dead(s)).map(({ messageId, reason }) => [messageId, reason])).toEqual(
    deadOnes.map(({ id, n }) => [id, `never ${n}`]),
  );
});
