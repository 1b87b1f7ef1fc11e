import { expect, test } from 'vitest';
import type { ConsumerOptions, RunBatchOptions } from '../../src/index.js';
import { scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';
import { failureOf } from '../enqueue/support.js';
import { ending, summary } from './support.js';

const runs: [keyof RunBatchOptions, unknown, string][] = [
  ['concurrency', 0, 'concurrency must be a whole number from 1 to 10000, got 0'],
  ['concurrency', 10_001, 'concurrency must be a whole number from 1 to 10000, got 10001'],
  ['concurrency', 1.5, 'concurrency must be a whole number from 1 to 10000, got 1.5'],
  ['concurrency', '4', 'concurrency must be a whole number from 1 to 10000, got "4"'],
  ['concurrency', Infinity, 'concurrency must be a whole number from 1 to 10000, got Infinity'],
  ['prefetch', -1, 'prefetch must be a whole number from 0 to 100000, got -1'],
  ['prefetch', 100_001, 'prefetch must be a whole number from 0 to 100000, got 100001'],
  ['prefetch', Number.NaN, 'prefetch must be a whole number from 0 to 100000, got NaN'],
  ['lockSeconds', 0, 'lockSeconds must be a number from 0.1 to 2592000, got 0'],
  ['lockSeconds', 2_592_001, 'lockSeconds must be a number from 0.1 to 2592000, got 2592001'],
  ['lockSeconds', '30', 'lockSeconds must be a number from 0.1 to 2592000, got "30"'],
  ['onSuccess', 'drop', 'onSuccess must be one of archive, delete, got "drop"'],
  ['onSuccess', true, 'onSuccess must be one of archive, delete, got true'],
  ['transactional', 'yes', 'transactional must be true or false, got "yes"'],
  ['transactional', 1, 'transactional must be true or false, got 1'],
  ['shutdownSeconds', -1, 'shutdownSeconds must be a number from 0 to 86400, got -1'],
  ['shutdownSeconds', Infinity, 'shutdownSeconds must be a number from 0 to 86400, got Infinity'],
];

const batches: [keyof RunBatchOptions, unknown, string][] = [
  ['batchSize', 0, 'batchSize must be a whole number from 1 to 100000, got 0'],
  ['batchSize', 100_001, 'batchSize must be a whole number from 1 to 100000, got 100001'],
  ['batchSize', [], 'batchSize must be a whole number from 1 to 100000, got an array'],
];

const seconds = 'a number from 0 to 4294967295';
const consumers: [keyof ConsumerOptions, unknown, string][] = [
  ['backoff', -1, `backoff must be ${seconds}, got -1`],
  ['backoff', Number.NaN, `backoff must be ${seconds}, got NaN`],
  ['backoff', '5', 'backoff must be a number, a function or { baseSeconds, maxSeconds }, got "5"'],
  ['backoff', true, 'backoff must be a number, a function or { baseSeconds, maxSeconds }, got true'],
  ['backoff', { baseSeconds: -1 }, `backoff.baseSeconds must be ${seconds}, got -1`],
  ['backoff', { baseSeconds: '1' }, `backoff.baseSeconds must be ${seconds}, got "1"`],
  ['backoff', { maxSeconds: Infinity }, `backoff.maxSeconds must be ${seconds}, got Infinity`],
  ['backoff', { maxSeconds: 4_294_967_296 }, `backoff.maxSeconds must be ${seconds}, got 4294967296`],
  ['maxReadCount', 0, 'maxReadCount must be a whole number from 1 to 2147483647, got 0'],
  ['lockSeconds', -1, 'lockSeconds must be a number from 0 to 2592000, got -1'],
  ['pollIntervalMs', 0, 'pollIntervalMs must be a whole number from 1 to 3600000, got 0'],
  ['foreignLeases', 'sometimes', 'foreignLeases must be one of never, stale, expired, got "sometimes"'],
];

test('wrong options of run() and runBatch() are refused by name, rule and value; nothing is sent', async () => {
  const s = await scenario();
  const { sluice, count } = await spied(s);
  const consumer = await sluice.consumer('work');
  for (const [field, value, message] of [...runs, ...batches]) {
    const wrong = { [field]: value };
    const calls = [consumer.runBatch(() => expect.unreachable(), wrong)];
    if (field !== 'batchSize') calls.push(consumer.run(() => expect.unreachable(), wrong));
    for (const call of calls) {
      const error = await failureOf(call);
      expect(error).toMatchObject({ code: 'INVALID_OPTION', field });
      expect(error.message).toBe(message);
    }
  }
  expect(count('claim_messages')).toBe(0);
});

test.each([
  [undefined, 'undefined'],
  [null, 'null'],
  ['handler', '"handler"'],
  [{}, 'an object'],
])('%s is no handler', async (handler, shown) => {
  const s = await scenario();
  const consumer = await s.consumer();
  for (const call of [consumer.run(handler as never), consumer.runBatch(handler as never)]) {
    expect((await failureOf(call)).message).toBe(`handler must be a function, got ${shown}`);
  }
});

test('wrong options of a consumer are refused by name, rule and value; no worker is registered', async () => {
  const s = await scenario();
  for (const [field, value, message] of consumers) {
    const error = await failureOf(s.consumer({ [field]: value }));
    expect(error).toMatchObject({ code: 'INVALID_OPTION' });
    expect(error.message).toBe(message);
  }
  expect(await s.sluice.admin.listWorkers()).toEqual([]);
});

test('what a message is asked with wrong values is refused, and it is still held', async () => {
  const s = await scenario();
  await (await s.producer()).enqueue({ n: 0 });
  const consumer = await s.consumer({ backoff: () => -1 });
  const message = (await consumer.dequeue())!;
  const wrong: [() => Promise<unknown>, string][] = [
    [() => message.release({ delaySeconds: -1 }), `delaySeconds must be ${seconds}, got -1`],
    [() => message.release({ delaySeconds: '1' as never }), `delaySeconds must be ${seconds}, got "1"`],
    [() => consumer.extendVisibility(message, -1), 'seconds must be a number from 0 to 2592000, got -1'],
    [() => consumer.extendVisibility('1', Number.NaN), 'seconds must be a number from 0 to 2592000, got NaN'],
    [() => message.fail(new Error('boom')), `what backoff() returns must be ${seconds}, got -1`],
  ];
  for (const [call, text] of wrong) {
    // Whether it throws or rejects.
    const error = await failureOf(Promise.resolve().then(call));
    expect(error.message).toBe(text);
  }
  expect(await message.archive()).toBe(true);
});

test('the extremes that are allowed work', async () => {
  const s = await scenario();
  const consumer = await s.consumer({ backoff: { baseSeconds: 0, maxSeconds: 0 } });
  const options = [
    { concurrency: 10_000, prefetch: 100_000, lockSeconds: 2_592_000 },
    { concurrency: 1, prefetch: 0, lockSeconds: 0.1, shutdownSeconds: 86_400 },
    { batchSize: 100_000, concurrency: 1, shutdownSeconds: 0 },
  ];
  for (const some of options) {
    const run = ending((signal) => consumer.runBatch(() => undefined, { ...some, signal }));
    expect(await run.stop()).toEqual(summary({}));
  }
});
