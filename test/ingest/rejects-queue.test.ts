import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { expect, test } from 'vitest';
import { QueueNotFoundError, type Reject } from '../../src/index.js';
import { deferred } from '../../src/deferred.js';
import { eventually, within } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import {
  bad,
  deliveredTo,
  expectAddsUp,
  good,
  mixed,
  refuseBad,
  rejectsIn,
  SERVER_FAULTS,
  without,
} from './rejects-support.js';
import { expectNothingLeft, ledger, numbers } from './support.js';

async function withRejects() {
  const test = await scenario();
  const queue = await test.sluice.admin.createQueue('bad');
  return { ...test, bad: queue };
}

const cycle: Record<string, unknown> = { key: 1n };
cycle['self'] = cycle;
class Unshowable {
  readonly value = 1n;
  [Symbol.for('nodejs.util.inspect.custom')]() {
    throw new Error('no');
  }
}
const long = '😀'.repeat(500_000);

/** What becomes of items that jsonb cannot store, or that are too large. */
const UNSTORABLE: [string, unknown, RegExp][] = [
  ['a BigInt', { value: 12n }, /^\{ value: 12n \}$/],
  ['a cycle', cycle, /Circular/],
  ['NUL', { value: 'a\0b' }, /^\{"value":"a\\u0000b"\}$/],
  ['NUL in a key', { 'a\0': 1 }, /^\{"a\\u0000":1\}$/],
  ['a lone surrogate', 'x\ud83d', /^"x\\ud83d"$/],
  ['a function', () => 1, /Function/],
  ['a symbol with NUL', Symbol('a\0b'), /^Symbol\(a.*b\)$/],
  ['a BigInt beside NUL', { [`a\0\ud800`]: 1n }, /1n/],
  ['a getter that throws', { get value() { throw new Error('no'); } }, /Getter/], // prettier-ignore
  ['what cannot be shown', new Unshowable(), /^\[object that cannot be shown\]$/],
  // The cut falls between the halves of a pair: a quote comes before them.
  ['2 MB of emoji', long, /^"😀{1000}/u],
  ['2 MB of emoji, the other way round', `x${long}`, /^"x😀{1000}/u],
  ['2 MB', { value: 'x'.repeat(2_000_000) }, /^\{"value":"xxx/],
];

test.each(UNSTORABLE)('%s becomes a text', async (_what, item, text) => {
  const test = await withRejects();
  const summary = await (
    await test.producer()
  ).ingest(mixed(30, new Map([[12, item]])), {
    ...{ batchSize: 10, rejectTo: 'bad' },
  });
  expect(summary).toMatchObject({ accepted: 30, committed: 29, rejected: 1 });
  const [reject, ...others] = await rejectsIn(test);
  expect(others).toEqual([]);
  expect(reject).toEqual({
    queue: 'work',
    index: 12,
    code: expect.stringMatching(/^PAYLOAD_(INVALID|TOO_LARGE)$/) as string,
    reason: expect.any(String) as string,
    text: expect.stringMatching(text) as string,
  });
  expect(await deliveredTo(test)).toEqual(without(30, [12]));
});

test('items that could be stored become JSON as they were when they were written', async () => {
  const test = await withRejects();
  const schema = z.object({ n: z.number() });
  const producer = await test.sluice.producer<object, unknown>('work', { schema });
  const item = { n: 'one', at: new Date(0), constructor: 'mine' };
  const stream = producer.writable({ rejectTo: 'bad', batchSize: 10, lingerMs: 60_000 });
  await new Promise((resolve) => stream.write(item, resolve));
  item.n = 'changed';
  await new Promise<void>((resolve) => stream.end(resolve));
  expect(await rejectsIn(test)).toEqual([
    {
      queue: 'work',
      index: 0,
      code: 'PAYLOAD_INVALID',
      reason: 'the schema refuses it at n (1 issue; see error.issues)',
      item: { n: 'one', at: '1970-01-01T00:00:00.000Z', constructor: 'mine' },
    },
  ]);
});

test('a reason that ends in half an emoji is stored', async () => {
  const test = await withRejects();
  const schema = z.object({}).catchall(z.number());
  const producer = await test.sluice.producer<object, unknown>('work', { schema });
  // A path is cut at 80 characters, and so inside a pair for one of two lengths of what stands before it.
  const items = [4, 5].map((length) => ({ [`${'x'.repeat(length)}${'𝒳'.repeat(50)}`]: 'no number' }));
  await producer.ingest(items, { rejectTo: 'bad' });
  expect(await rejectsIn(test)).toMatchObject([{ index: 0 }, { index: 1 }]);
});

test.each(SERVER_FAULTS)('what %s refuses becomes its whole text', async (fault) => {
  const test = await withRejects();
  await refuseBad(test, fault);
  const large = { ...bad(15), text: 'ü'.repeat(400_000) };
  const items = new Map<number, unknown>([[11, { value: 1n }], [13, bad(13)], [15, large], [38, bad(38)]]); // prettier-ignore
  const rejects: Reject[] = [];
  const summary = await (
    await test.producer()
  ).ingest(mixed(50, items), {
    ...{ batchSize: 10, rejectTo: 'bad', concurrency: 4 },
    onReject: (reject) => void rejects.push(reject),
  });
  const stored = await rejectsIn(test);
  expect(stored.map(({ index, text }) => [index, text])).toEqual([
    [11, '{ value: 1n }'],
    ...[13, 15, 38].map((n) => [n, JSON.stringify(items.get(n))]),
  ]);
  // The same ones.
  expect(stored.map(({ index, code, reason }) => ({ index, code, reason }))).toEqual(
    rejects.map(({ index, code, reason }) => ({ index, code, reason })),
  );
  expect(await deliveredTo(test)).toEqual(without(50, items.keys()));
  expect(summary).toMatchObject({ committed: 46, rejected: 4 });
  expectAddsUp(summary);
  await expectNothingLeft(test);
});

test('a consumer of rejects is woken', async () => {
  const test = await withRejects();
  const consumer = await test.sluice.consumer('bad', { pollIntervalMs: 3_600_000 });
  const messages = consumer.messages<{ index: number }>();
  const first = messages[Symbol.asyncIterator]().next();
  await delay(0); // it is asking
  await (await test.producer()).ingest([good(0), { value: 1n }], { rejectTo: 'bad' });
  expect((await within(10_000, 'the reject', first)).value).toMatchObject({
    payload: { index: 1, queue: 'work' },
  });
  messages.destroy();
});

test('a queue that does not exist is refused before anything is written, or anybody fenced', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const running = producer.writable({ resume: 'mine', batchSize: 1 });
  running.write(good(0));
  await eventually('the first', () => running.stats.batches === 1);
  for (const resume of [undefined, 'mine', 'other']) {
    const failure: unknown = await producer
      .ingest(mixed(10, new Map()), { rejectTo: 'nowhere', ...(resume && { resume }) })
      .catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(QueueNotFoundError);
    expect(failure).toMatchObject({ queue: 'nowhere' });
  }
  running.write(good(1));
  await new Promise<void>((resolve) => running.end(resolve));
  expect(await test.delivered()).toEqual([0, 1]);
  expect((await ledger(test)).map(({ name }) => name)).toEqual(['mine']);
});

test('the queue of the stream itself is refused', async () => {
  const test = await scenario();
  const producer = await test.producer();
  expect(() => producer.writable({ rejectTo: 'work' })).toThrow(
    'rejectTo must be another queue than that of the stream, got "work"',
  );
  await expect(producer.ingest([1n], { rejectTo: 'work' })).rejects.toMatchObject({
    code: 'INVALID_OPTION',
    field: 'rejectTo',
  });
});

test('a queue that is deleted during the stream is named; the batch with the reject is out whole', async () => {
  const test = await withRejects();
  const producer = await test.producer();
  const gone = deferred();
  const source = async function* () {
    yield* numbers(20).map(good);
    await gone.promise;
    yield* [good(20), { value: 1n }, ...numbers(30).map(good)];
  };
  const failed = producer
    .ingest(source(), { rejectTo: 'bad', batchSize: 10, lingerMs: 5 })
    .catch((error: unknown) => error);
  await eventually('what came before', async () => (await test.count()) === 20);
  await test.sluice.admin.deleteQueue('bad');
  gone.resolve();
  const failure = await within(20_000, 'the end', failed);
  expect(failure).toBeInstanceOf(QueueNotFoundError);
  expect(failure).toMatchObject({ queue: 'bad', progress: { committed: 20, position: '20' } });
  expect(await test.delivered()).toEqual(numbers(20));
  await expectNothingLeft(test);
});
