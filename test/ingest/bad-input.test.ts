import { inspect } from 'node:util';
import { expect, test } from 'vitest';
import { InvalidOptionError, type WritableOptions } from '../../src/index.js';
import { rowFormat, Rows } from '../../src/ingest/rows.js';
import { PayloadCheck } from '../../src/validation.js';
import { numbered, scenario } from '../support/scenario.js';
import { expectNothingLeft, numbers } from './support.js';

const cycle: Record<string, unknown> = { secretKey: 'secret' };
cycle['self'] = cycle;

const BAD: readonly [string, unknown][] = [
  ['undefined', { toJSON: () => undefined }],
  ['a function', () => 'secret'],
  ['a symbol', Symbol('secret')],
  ['a BigInt', { secret: 1n }],
  ['a cycle', cycle],
  ['NUL', { secret: 'a\0b' }],
  ['NUL in a key', { 'secret\0': 1 }],
  ['NUL after a backslash', { secret: '\\\0' }],
  ['a lone high surrogate', 'secret \ud83d'],
  ['a lone low surrogate', 'secret \ude00'],
  ['surrogates in the wrong order', 'secret \ude00\ud83d'],
  ['a forbidden key', JSON.parse('{"a":[{"__proto__":"secret"}]}')],
];

test.each(BAD)('%s fails at its index, without its text; earlier whole batches stay', async (_what, item) => {
  const test = await scenario();
  const producer = await test.producer();
  const failure = await producer
    .ingest([...numbered(25), item, ...numbered(10)], { batchSize: 10 })
    .catch((error: unknown) => error);
  expect(failure).toMatchObject({
    code: 'PAYLOAD_INVALID',
    index: 25,
    progress: { committed: 20, position: '20' },
  });
  expect(inspect(failure, { depth: 9, showHidden: true })).not.toContain('secret');
  expect(await test.delivered()).toEqual(numbers(20));
  await expectNothingLeft(test);
});

test('a payload over the limit fails at its index with both sizes; one at the limit is stored', async () => {
  const test = await scenario();
  const producer = await test.producer({ maxPayloadBytes: 100 });
  const bytes = (count: number) => 'ü'.repeat((count - 2) / 2);
  await producer.ingest([bytes(100)]);
  expect(await test.count()).toBe(1);
  await expect(producer.ingest([bytes(100), bytes(102)])).rejects.toMatchObject({
    code: 'PAYLOAD_TOO_LARGE',
    index: 1,
    actualBytes: 102,
    maxBytes: 100,
  });
  expect(await test.count()).toBe(1);
});

test('text that only looks like an escape is stored as it is', async () => {
  const test = await scenario();
  const texts = ['\\u0000', '\\\\u0000', '\\ud800', '\\\\\\ud83d', 'u0000', '\u0001\\u0000', '😀\\udfff'];
  await (await test.producer()).ingest(texts);
  const { rows } = await test.pool.query<{ payload: string }>(
    `select payload from ${test.schema}.pgqrs_messages order by vt, id`,
  );
  expect(rows.map(({ payload }) => payload)).toEqual(texts);
});

test.each([-1, 0.5, Number.NaN, 4_294_967_296, '7', undefined])(
  'a delay of %s for one item fails at its index',
  async (delay) => {
    const test = await scenario();
    const producer = await test.producer();
    const delaySeconds = ({ n }: { n: number }) => (n === 12 ? (delay as number) : 0);
    await expect(producer.ingest(numbered(20), { batchSize: 10, delaySeconds })).rejects.toMatchObject({
      code: 'INVALID_OPTION',
      field: 'delaySeconds of the item at index 12',
      rule: 'a whole number from 0 to 4294967295',
      value: typeof delay === 'string' ? `"${delay}"` : String(delay),
      progress: { committed: 10 },
    });
    expect(await test.delivered()).toEqual(numbers(10));
  },
);

const REFUSED: readonly [WritableOptions<unknown>, string][] = [
  [{ batchSize: 0 }, 'batchSize must be a whole number from 1 to 1000000, got 0'],
  [{ batchSize: 1.5 }, 'batchSize must be a whole number from 1 to 1000000, got 1.5'],
  [{ batchBytes: 0 }, 'batchBytes must be a whole number from 1 to 536870912, got 0'],
  [{ lingerMs: -1 }, 'lingerMs must be a whole number from 0 to 3600000, got -1'],
  [{ concurrency: 0 }, 'concurrency must be a whole number from 1 to 4, got 0'],
  [{ concurrency: 5 }, 'concurrency must be a whole number from 1 to 4, got 5'],
  [{ concurrency: '2' as never }, 'concurrency must be a whole number from 1 to 4, got "2"'],
  [{ delaySeconds: -1 }, 'delaySeconds must be a whole number from 0 to 4294967295, got -1'],
  [{ delaySeconds: 0.5 }, 'delaySeconds must be a whole number from 0 to 4294967295, got 0.5'],
  [{ delaySeconds: Number.NaN }, 'delaySeconds must be a whole number from 0 to 4294967295, got NaN'],
  [
    { delaySeconds: 4_294_967_296 },
    'delaySeconds must be a whole number from 0 to 4294967295, got 4294967296',
  ],
  [{ method: 'upsert' as never }, 'method must be one of auto, copy, insert, got "upsert"'],
  [{ retries: -1 }, 'retries must be a whole number from 0 to 1000000, got -1'],
  [{ retryBaseMs: 0 }, 'retryBaseMs must be a whole number from 1 to 3600000, got 0'],
  [{ retryMaxMs: Infinity }, 'retryMaxMs must be a whole number from 1 to 3600000, got Infinity'],
  [{ batchTimeoutMs: 99 }, 'batchTimeoutMs must be a whole number from 100 to 3600000, got 99'],
];

test('an option is refused with field, rule and value before anything is sent', async () => {
  const test = await scenario();
  const producer = await test.producer();
  for (const [options, message] of REFUSED) {
    expect(() => producer.writable(options)).toThrow(InvalidOptionError);
    expect(() => producer.writable(options)).toThrow(message);
    await expect(producer.ingest([1], options)).rejects.toThrow(message);
  }
  await expectNothingLeft(test);
  expect(await test.count()).toBe(0);
});

/** Numbers from 0 to 1, the same ones for the same seed. */
function seeded(seed: number): () => number {
  return () => (seed = (seed * 16_807) % 2_147_483_647) / 2_147_483_647;
}

test('what the client lets pass the server stores, and what it refuses the server refuses: 6,000 random texts', async () => {
  const { pool } = await scenario();
  const random = seeded(20_261);
  const parts = [
    '\\',
    '\\\\',
    '\\u',
    '0000',
    'd800',
    'dc00',
    'udfff',
    '\0',
    '\ud83d',
    '\ude00',
    '😀',
    'a',
    '"',
    '\n',
    '\u0001',
  ];
  const texts = Array.from({ length: 6_000 }, () =>
    Array.from(
      { length: 1 + Math.floor(random() * 7) },
      () => parts[Math.floor(random() * parts.length)],
    ).join(''),
  );
  const rows = new Rows(rowFormat('1', '1', false, new PayloadCheck()));
  const passed = texts.map((text, index) => {
    try {
      rows.append({ [text]: text }, index, 0);
      return true;
    } catch {
      return false;
    }
  });
  const client = await pool.connect();
  // PostgreSQL has pg_input_is_valid() only from 16 on.
  await client.query(`create function pg_temp.is_jsonb(item text) returns boolean language plpgsql as $$
    begin perform item::jsonb; return true; exception when others then return false; end $$`);
  const { rows: verdicts } = await client.query<{ valid: boolean }>(
    `select pg_temp.is_jsonb(item) as valid from unnest($1::text[]) with ordinality as t (item, n) order by n`,
    [texts.map((text) => JSON.stringify({ [text]: text }))],
  );
  client.release(true);
  expect(verdicts.map(({ valid }) => valid)).toEqual(passed);
  expect(passed.filter(Boolean).length).toBeGreaterThan(1_000);
  expect(passed.filter((pass) => !pass).length).toBeGreaterThan(1_000);
});
