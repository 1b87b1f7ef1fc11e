import pg from 'pg';
import { expect, expectTypeOf, onTestFinished, test } from 'vitest';
import type { StoredMessage } from '../../src/index.js';
import { behindProxy } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { failureOf, order } from './support.js';

const forget = (schema: string) =>
  `update ${schema}.sluice_dedupe set expires_at = now() - interval '1 second'`;

test('a key lets one message in until it is forgotten; the others resolve with undefined', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const first = await producer.enqueue({ n: 0 }, { dedupeKey: 'order 1' });
  expect(first).toMatchObject({ payload: { n: 0 }, readCount: 0 });
  expect(await producer.enqueue({ n: 1 }, { dedupeKey: 'order 1' })).toBeUndefined();
  expect(await producer.enqueueDelayed({ n: 2 }, 60, { dedupeKey: 'order 1' })).toBeUndefined();
  expect(await producer.enqueue({ n: 3 }, { dedupeKey: 'order 2' })).toMatchObject({ payload: { n: 3 } });
  expect(await producer.enqueue({ n: 4 })).toMatchObject({ payload: { n: 4 } });
  await s.pool.query(forget(s.schema));
  expect(await producer.enqueue({ n: 5 }, { dedupeKey: 'order 1' })).toMatchObject({ payload: { n: 5 } });
  expect(await producer.enqueue({ n: 6 }, { dedupeKey: 'order 1' })).toBeUndefined();
  expect(await order(s)).toEqual([0, 3, 4, 5]);
});

test('the types say that a message may be missing only where there is a key', async () => {
  const { sluice } = await scenario();
  const producer = await sluice.producer<{ n: number }>('work');
  type Message = StoredMessage<{ n: number }>;
  expectTypeOf(await producer.enqueue({ n: 1 })).toEqualTypeOf<Message>();
  expectTypeOf(await producer.enqueue({ n: 1 }, { delaySeconds: 1 })).toEqualTypeOf<Message>();
  expectTypeOf(await producer.enqueue({ n: 1 }, { dedupeKey: 'a' })).toEqualTypeOf<Message | undefined>();
  expectTypeOf(await producer.batchEnqueue([{ n: 1 }])).toEqualTypeOf<Message[]>();
  const keyed = await producer.batchEnqueue([{ n: 1 }], { dedupeKey: ({ n }) => `${n}` });
  expectTypeOf(keyed).toEqualTypeOf<(Message | undefined)[]>();
});

test('a batch goes in without what was there already, what comes twice in it, and in its order', async () => {
  const s = await scenario();
  const producer = await s.producer();
  await producer.enqueue({ n: 100, key: 'b' }, { dedupeKey: 'b' });
  const items = ['a', 'b', undefined, 'a', 'c', undefined, 'c'].map((key, n) => ({ n, key }));
  const messages = await producer.batchEnqueue(items, {
    dedupeKey: (item) => (item as { key?: string }).key,
  });
  expect(messages.map((message) => message && (message.payload as { n: number }).n)).toEqual([
    0,
    undefined,
    2,
    undefined,
    4,
    5,
    undefined,
  ]);
  const ids = messages.flatMap((message) => (message ? [Number(message.id)] : []));
  expect(ids).toEqual([...ids].sort((a, b) => a - b));
  expect(await order(s)).toEqual([100, 0, 2, 4, 5]);
  expect(await producer.batchEnqueue(items.slice(0, 2), { dedupeKey: () => 'a' })).toEqual([
    undefined,
    undefined,
  ]);
});

test('of many calls with the same keys at once, on several producers, exactly one each gets in', async () => {
  const s = await scenario();
  const producers = await Promise.all([s.producer(), s.producer(), s.producer()]);
  const calls = Array.from({ length: 600 }, (_, at) =>
    producers[at % 3]!.enqueue({ n: at % 50 }, { dedupeKey: `key ${at % 50}` }),
  );
  const won = (await Promise.all(calls)).filter((message) => message !== undefined);
  expect(won).toHaveLength(50);
  expect((await order(s)).sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, n) => n));
});

test('keys belong to their queue', async () => {
  const s = await scenario();
  await s.sluice.admin.createQueue('other');
  const other = await s.sluice.producer('other');
  const producer = await s.producer();
  expect(await producer.enqueue({ n: 1 }, { dedupeKey: 'k' })).toBeDefined();
  expect(await other.enqueue({ n: 2 }, { dedupeKey: 'k' })).toBeDefined();
});

test('a payload that the server refuses does not take its key along', async () => {
  const s = await scenario();
  await s.pool.query(
    `alter table ${s.schema}.pgqrs_messages add constraint small check ((payload->>'n')::int < 100)`,
  );
  const producer = await s.producer();
  const calls = [1, 100, 2].map((n) => producer.enqueue({ n }, { dedupeKey: `k${n}` }));
  expect((await Promise.allSettled(calls)).map(({ status }) => status)).toEqual([
    'fulfilled',
    'rejected',
    'fulfilled',
  ]);
  expect(await producer.enqueue({ n: 3 }, { dedupeKey: 'k100' })).toBeDefined();
  expect(await order(s)).toEqual([1, 2, 3]);
});

test('in the caller’s transaction the key goes with it', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const client = new pg.Client({ connectionString: s.url });
  await client.connect();
  onTestFinished(() => client.end());
  await client.query('begin');
  expect(await producer.enqueue({ n: 1 }, { client, dedupeKey: 'k' })).toBeDefined();
  expect(await producer.enqueue({ n: 2 }, { client, dedupeKey: 'k' })).toBeUndefined();
  await client.query('rollback');
  expect(await producer.enqueue({ n: 3 }, { dedupeKey: 'k' })).toBeDefined();
  expect(await order(s)).toEqual([3]);
});

test('with a key a call whose answer was lost is made again, and is in once', async () => {
  const behind = await behindProxy();
  const producer = await behind.sluiceThrough.producer('work', { retryBaseMs: 1, retryMaxMs: 5 });
  await producer.enqueue({ n: 0 });
  let cuts = 0;
  behind.proxy.judge = ({ link, from, data }) => {
    if (from === 'client' && data.includes('"lost"')) link.notes.add('lost');
    // Committed: the answer says that the server is ready for more.
    if (from !== 'server' || !link.notes.has('lost') || !data.includes('Z\0\0\0\u0005I')) return 'pass';
    link.notes.clear();
    return ++cuts > 1 ? 'pass' : 'cut';
  };
  const keyed = producer.enqueue({ n: 1, text: 'lost' }, { dedupeKey: 'k' });
  const plain = producer.enqueue({ n: 2, text: 'lost' });
  expect(await failureOf(plain)).toMatchObject({ code: 'AMBIGUOUS_ENQUEUE' });
  await within(10_000, 'the second try', keyed);
  expect(cuts).toBeGreaterThan(0);
  await eventually('both', async () => (await order(behind)).length === 3);
  expect(await order(behind)).toEqual([0, 1, 2]);
});

test.each([
  [
    { dedupeKey: '' },
    'dedupeKey must be a non-empty string of at most 2000 bytes without NUL characters, got ""',
  ],
  [{ dedupeKey: 'a\0b' }, 'dedupeKey must be a non-empty string'],
  [{ dedupeKey: 7 as unknown as string }, 'dedupeKey must be a non-empty string'],
  [{ dedupeKey: 'x'.repeat(2_001) }, 'dedupeKey must be a non-empty string'],
  [
    { dedupeKey: 'k', dedupeWindowSeconds: 0 },
    'dedupeWindowSeconds must be a number from 1 to 315360000, got 0',
  ],
])('%.40j is refused', async (options, message) => {
  const s = await scenario();
  const producer = await s.producer();
  expect(await failureOf(producer.enqueue({ n: 1 }, options))).toMatchObject({ code: 'INVALID_OPTION' });
  await expect(producer.enqueue({ n: 1 }, options)).rejects.toThrow(message);
  expect(await s.count()).toBe(0);
});

test('in a batch the index of a bad key is named', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const keys = ['a', '', 'b'];
  await expect(producer.batchEnqueue([1, 2, 3], { dedupeKey: (_item, at) => keys[at] })).rejects.toThrow(
    'dedupeKey of the item at index 1 must be a non-empty string',
  );
  expect(await s.count()).toBe(0);
});
