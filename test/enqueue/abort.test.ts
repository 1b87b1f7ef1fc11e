import { getEventListeners } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { eventually } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { blocked, constrain, failureOf, lockMessages, order, watched } from './support.js';

const numbers = (count: number) => Array.from({ length: count }, (_, n) => n);

class Changed extends Error {}

/** A signal and the end of it. */
function aborting() {
  const controller = new AbortController();
  const reason = new Changed('changed my mind');
  return { signal: controller.signal, reason, abort: () => controller.abort(reason) };
}

const AMBIGUOUS = { code: 'AMBIGUOUS_ENQUEUE' };

test('a signal that has aborted already sends nothing, and its reason is the error', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work');
  const { signal, reason, abort } = aborting();
  abort();
  forget();
  expect(await failureOf(producer.enqueue({ n: 0 }, { signal }))).toBe(reason);
  expect(await failureOf(producer.enqueueDelayed({ n: 0 }, 1, { signal }))).toBe(reason);
  expect(await failureOf(producer.batchEnqueue([{ n: 0 }, { n: 1 }], { signal }))).toBe(reason);
  await expect(producer.enqueue({ n: 0 }, { signal: AbortSignal.abort('words') })).rejects.toBe('words');
  // In the turn of the call itself, before its group is gathered.
  const late = aborting();
  const call = producer.enqueue({ n: 0 }, { signal: late.signal });
  late.abort();
  expect(await failureOf(call)).toBe(late.reason);
  expect(count('enqueue')).toBe(0);
  await producer.enqueue({ n: 1 });
  expect(await order(s)).toEqual([1]);
});

test('an abort while a call waits behind another statement takes it back, and nobody else', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work');
  forget();
  const letGo = await lockMessages(s);
  const first = producer.enqueue({ n: 0 });
  await blocked(s);
  const { signal, reason, abort } = aborting();
  const others = numbers(20).map((n) => producer.enqueue({ n: n + 1 }, n === 10 ? { signal } : {}));
  abort();
  expect(await failureOf(others[10]!)).toBe(reason);
  await letGo();
  await Promise.all([first, ...others.filter((_, n) => n !== 10)]);
  expect(count('enqueue')).toBe(2);
  expect(await order(s)).toEqual(numbers(21).filter((n) => n !== 11));
  expect(getEventListeners(signal, 'abort')).toEqual([]);
});

test('an abort while a call waits for a connection takes it back, and nobody else', async () => {
  const s = await scenario();
  const { sluice, pool, count, forget } = await watched(s, { max: 1 });
  const producer = await sluice.producer('work');
  forget();
  const taken = await pool.connect();
  const { signal, reason, abort } = aborting();
  const calls = numbers(5).map((n) => producer.enqueue({ n }, n === 2 ? { signal } : {}));
  await eventually('the wait for a client', () => pool.waitingCount === 1);
  const batch = producer.batchEnqueue([{ n: 10 }, { n: 11 }], { signal });
  await eventually('the wait of the batch', () => pool.waitingCount === 2);
  abort();
  expect(await failureOf(calls[2]!)).toBe(reason);
  expect(await failureOf(batch)).toBe(reason);
  taken.release();
  await Promise.all(calls.filter((_, n) => n !== 2));
  await eventually('the batch to be given up', () => pool.waitingCount === 0);
  await producer.enqueue({ n: 5 });
  expect(await order(s)).toEqual([0, 1, 3, 4, 5]);
  expect(count('enqueue')).toBe(2);
});

test('when all that wait for a connection are taken back nothing is sent', async () => {
  const s = await scenario();
  const { sluice, pool, count, forget } = await watched(s, { max: 1 });
  const producer = await sluice.producer('work');
  forget();
  const taken = await pool.connect();
  const { signal, reason, abort } = aborting();
  const call = producer.enqueue({ n: 0 }, { signal });
  await eventually('the wait for a client', () => pool.waitingCount === 1);
  abort();
  expect(await failureOf(call)).toBe(reason);
  taken.release();
  await producer.enqueue({ n: 1 });
  expect(count('enqueue')).toBe(1);
  expect(await order(s)).toEqual([1]);
});

test('an abort while a call waits for the rate limit takes it back, with its share of the limit', async () => {
  const s = await scenario();
  const producer = await s.producer({ maxEnqueuePerSecond: 0.01, maxEnqueueBurst: 2 });
  await producer.batchEnqueue([{ n: 0 }, { n: 1 }]);
  const before = producer.rateLimit!.available;
  expect(before).toBeLessThan(0.1);
  const { signal, reason, abort } = aborting();
  const calls = [
    producer.enqueue({ n: 2 }, { signal }),
    producer.enqueueDelayed({ n: 3 }, 5, { signal }),
    producer.batchEnqueue([{ n: 4 }, { n: 5 }], { signal }),
  ];
  for (const call of calls) call.catch(() => undefined);
  await new Promise((resolve) => setImmediate(resolve));
  expect(getEventListeners(signal, 'abort')).not.toEqual([]);
  abort();
  for (const call of calls) expect(await failureOf(call)).toBe(reason);
  expect(producer.rateLimit!.available).toBeGreaterThanOrEqual(before);
  expect(producer.rateLimit!.available).toBeLessThan(before + 0.5);
  expect(getEventListeners(signal, 'abort')).toEqual([]);
  expect(await order(s)).toEqual([0, 1]);
});

test('an abort after sending is ambiguous at once, while the others of the statement get their messages', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work');
  forget();
  const letGo = await lockMessages(s);
  const { signal, reason, abort } = aborting();
  const calls = numbers(10).map((n) => producer.enqueue({ n }, n === 4 ? { signal } : {}));
  const batch = producer.batchEnqueue([{ n: 100 }, { n: 101 }], { signal });
  await blocked(s, 2);
  abort();
  expect(await failureOf(calls[4]!)).toMatchObject({ ...AMBIGUOUS, cause: reason });
  expect(await failureOf(batch)).toMatchObject({ ...AMBIGUOUS, cause: reason });
  expect(getEventListeners(signal, 'abort')).toEqual([]);
  expect(await s.count()).toBe(0);
  await letGo();
  const messages = await Promise.all(calls.filter((_, n) => n !== 4));
  expect(messages.map(({ payload }) => payload)).toEqual(
    numbers(10).flatMap((n) => (n === 4 ? [] : [{ n }])),
  );
  await eventually('the batch', async () => (await s.count()) === 12);
  // Once each, the ambiguous ones too.
  expect((await order(s)).sort((a, b) => a - b)).toEqual([...numbers(10), 100, 101]);
  expect(count('enqueue')).toBe(2);
});

test('a call that is ambiguous by its abort is not sent again when its statement fails for a passing reason', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work', { retryBaseMs: 1 });
  forget();
  const letGo = await lockMessages(s);
  const { signal, abort } = aborting();
  const aborted = producer.enqueue({ n: 0 }, { signal });
  const other = producer.enqueue({ n: 1 });
  const [pid] = await blocked(s);
  abort();
  expect(await failureOf(aborted)).toMatchObject(AMBIGUOUS);
  await s.pool.query('select pg_cancel_backend($1)', [pid]);
  await eventually('the retry', () => count('enqueue') >= 2);
  await letGo();
  await other;
  expect(await order(s)).toEqual([1]);
});

test('an abort in the pause before a retry takes the call back', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work', { retryBaseMs: 2_000, retryMaxMs: 2_000 });
  forget();
  const letGo = await lockMessages(s);
  const { signal, reason, abort } = aborting();
  const call = producer.enqueue({ n: 0 }, { signal });
  const other = producer.enqueue({ n: 1 });
  const [pid] = await blocked(s);
  await s.pool.query('select pg_cancel_backend($1)', [pid]);
  await eventually('the pause', async () => {
    const { rowCount } = await s.pool.query(
      `select from pg_stat_activity where pid = $1 and state = 'idle'`,
      [pid],
    );
    return rowCount === 1 && sluice.admin.pool.idleCount === sluice.admin.pool.totalCount;
  });
  // The answer may be on its way to the client still: then this is what any later abort would be.
  await new Promise((resolve) => setImmediate(resolve));
  await letGo();
  abort();
  expect(await failureOf(call)).toBe(reason);
  await other;
  expect(count('enqueue')).toBe(2);
  expect(await order(s)).toEqual([1]);
});

test('thousands of calls with one signal leave no listener on it and no warning behind', async () => {
  const s = await scenario();
  await constrain(s, "payload->>'bad' is null");
  const warnings: Error[] = [];
  const onWarning = (warning: Error) => warnings.push(warning);
  process.on('warning', onWarning);
  onTestFinished(() => void process.off('warning', onWarning));
  const { signal } = new AbortController();
  const limited = { maxEnqueuePerSecond: 20_000, maxEnqueueBurst: 100 };
  for (const producer of [await s.producer(), await s.producer(limited)]) {
    const outcomes = await Promise.allSettled(
      numbers(3_000).map((n) =>
        n % 100 === 0
          ? producer.batchEnqueue([{ n }, { n }], { signal })
          : producer.enqueue(n % 50 === 1 ? { n, bad: 1 } : { n }, { signal }),
      ),
    );
    expect(outcomes.filter(({ status }) => status === 'rejected')).toHaveLength(60);
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  }
  // Process warnings are emitted in a later turn.
  await new Promise((resolve) => setImmediate(resolve));
  expect(warnings).toEqual([]);
});
