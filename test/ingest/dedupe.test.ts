import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import type { CommittedBatch, Producer, Reject, WritableOptions } from '../../src/index.js';
import { numbered, type Scenario, scenario } from '../support/scenario.js';
import { counted, closed, expectNothingLeft, numbers } from './support.js';

interface Item {
  n: number;
  key?: unknown;
}

const byKey = { dedupeKey: ({ key }: Item) => key as string | undefined };

/** Every third one may come again; of the others about half are new. */
const ITEMS: Item[] = numbers(1_000).map((n) => (n % 3 === 0 ? { n } : { n, key: `key ${(n * 7) % 350}` }));

/** What is to be in: what has no key, and the first of each key. */
function firsts(items: readonly Item[]): number[] {
  const seen = new Set<unknown>();
  return items.flatMap(({ n, key }) => {
    if (key !== undefined && seen.has(key)) return [];
    seen.add(key);
    return [n];
  });
}

async function load(producer: Producer, items: readonly Item[], options: WritableOptions<Item> = {}) {
  const stream = producer.writable<Item>({ ...byKey, ...options });
  const batches: CommittedBatch[] = [];
  stream.on('batch', (batch) => batches.push(batch));
  await pipeline(Readable.from(items), stream);
  return { stats: stream.stats, batches };
}

const sumOf = (batches: readonly CommittedBatch[], what: 'rows' | 'duplicates' | 'rejected') =>
  batches.reduce((sum, batch) => sum + batch[what], 0);

/** The rows in the order in which they came in. */
async function stored({ pool, schema }: Scenario) {
  const { rows } = await pool.query<{ n: number; key: string | null; delay: number }>(
    `select (payload->>'n')::int as n, payload->>'key' as key,
       extract(epoch from vt - enqueued_at)::int as delay from ${schema}.pgqrs_messages order by id`,
  );
  return rows;
}

const forgetAll = ({ pool, schema }: Scenario) =>
  pool.query(`update ${schema}.sluice_dedupe set expires_at = now() - interval '1 second'`);

test.each(['copy', 'insert'] as const)(
  '%s: the first of each key is in, in order and with its delay, and the counts are exact',
  async (method) => {
    const test = await scenario();
    const producer = await test.producer();
    const delaySeconds = ({ n }: Item) => (n % 2) * 3_600;
    const { stats, batches } = await load(producer, ITEMS, { method, batchSize: 37, delaySeconds });
    const expected = firsts(ITEMS);
    const rows = await stored(test);
    expect(rows.map(({ n }) => n)).toEqual(expected);
    expect(rows.every(({ n, delay }) => delay === (n % 2) * 3_600)).toBe(true);
    const [committed, duplicates] = [expected.length, ITEMS.length - expected.length];
    expect(stats).toMatchObject({ accepted: 1_000, committed, duplicates, rejected: 0 });
    expect([sumOf(batches, 'rows'), sumOf(batches, 'duplicates')]).toEqual([committed, duplicates]);
    for (const { rows, duplicates } of batches) expect([37, 1]).toContain(rows + duplicates);
    expect(batches.every((batch) => batch.method === method)).toBe(true);
    await expectNothingLeft(test);
  },
);

test('keys keep their like out across streams and producers, of their own queue', async () => {
  const test = await scenario();
  await test.sluice.admin.createQueue('other');
  const items = numbers(20).map((n) => ({ n, key: `${n}` }));
  const counts = [];
  for (const queue of ['work', 'work', 'other']) {
    const producer = await test.sluice.producer(queue);
    for (const stream of [1, 2]) {
      const { committed, duplicates } = (await load(producer, items)).stats;
      counts.push([queue, stream, committed, duplicates]);
    }
  }
  expect(counts).toEqual([
    ['work', 1, 20, 0],
    ['work', 2, 0, 20],
    ['work', 1, 0, 20],
    ['work', 2, 0, 20],
    ['other', 1, 20, 0],
    ['other', 2, 0, 20],
  ]);
});

test('a batch of repeats alone takes the stream further', async () => {
  const test = await scenario();
  const producer = await test.producer();
  await load(producer, [{ n: 0, key: 'a' }]);
  const again = [...numbers(30).map((n) => ({ n: n + 1, key: 'a' })), { n: 31, key: 'b' }];
  const { stats, batches } = await load(producer, again, { batchSize: 10 });
  expect(stats).toMatchObject({ accepted: 31, committed: 1, duplicates: 30, position: '31' });
  expect(batches.map(({ rows }) => rows)).toEqual([0, 0, 0, 1]);
  expect(await test.delivered()).toEqual([0, 31]);
});

test('a key is any text, and no two texts are the same key', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const long = randomBytes(1_000).toString('hex');
  const texts = [
    ...[long, `${long.slice(0, -1)}x`, 'ü'.repeat(1_000), 'é', 'e\u0301', '😀', '\u{10ffff}', 'ﬀ'],
    ...[
      'NULL',
      'null',
      '{}',
      '{a,b}',
      ',',
      '"',
      '\\',
      '\\"',
      "'",
      '$1',
      ' ',
      '  ',
      '\n',
      '\t',
      'A',
      'a',
      'ı',
    ],
  ];
  const items = texts.map((key, n) => ({ n, key }));
  expect((await load(producer, items)).stats).toMatchObject({ committed: texts.length, duplicates: 0 });
  expect((await load(producer, items)).stats).toMatchObject({ committed: 0, duplicates: texts.length });
  const { rows } = await test.pool.query<{ key: string }>(`select key from ${test.schema}.sluice_dedupe`);
  expect(rows.map(({ key }) => key).sort()).toEqual([...texts].sort());
});

test.each([
  ['empty', ''],
  ['with a NUL', 'a\0b'],
  ['of 2,001 bytes', 'ü'.repeat(1_000) + 'x'],
  ['with a lone surrogate', 'a\ud800'],
  ['that is null', null],
  ['that is a number', 7],
  ['that is an object', { a: 1 }],
])('a key %s is refused by its index, and its item can be rejected', async (_what, key) => {
  const test = await scenario();
  const producer = await test.producer();
  const items = [
    { n: 0, key: 'a' },
    { n: 1, key },
    { n: 2, key: 'b' },
  ];
  const stream = producer.writable({ ...byKey, batchSize: 1 });
  const events = counted(stream);
  Readable.from(items).pipe(stream);
  await closed(stream);
  expect(events).toMatchObject({
    error: 1,
    reason: { code: 'INVALID_OPTION', field: 'dedupeKey of the item at index 1', progress: { committed: 1 } },
  });

  const rejects: Reject<Item>[] = [];
  const onReject = (reject: Reject<Item>) => void rejects.push(reject);
  expect((await load(producer, items, { onReject })).stats).toMatchObject({
    ...{ accepted: 3, committed: 1, duplicates: 1, rejected: 1 },
  });
  expect(rejects).toMatchObject([{ index: 1, code: 'INVALID_OPTION', item: { n: 1 } }]);
  expect(await test.delivered()).toEqual([0, 2]);
});

test('what dedupeKey throws ends the stream, whatever becomes of rejects', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const broken = new Error('no key today');
  const dedupeKey = ({ n }: Item) => {
    if (n === 15) throw broken;
    return `${n}`;
  };
  const loaded = producer.ingest<Item>(numbered(30), { dedupeKey, batchSize: 10, onReject: () => undefined });
  await expect(loaded).rejects.toMatchObject({ code: 'INGEST_FAILED', cause: broken });
  expect(await test.delivered()).toEqual(numbers(10));
});

test.each([
  { dedupeKey: 'id' },
  { dedupeKey: () => 'a', dedupeWindowSeconds: 0 },
  { dedupeKey: () => 'a', dedupeWindowSeconds: 315_360_001 },
  { dedupeKey: () => 'a', dedupeWindowSeconds: NaN },
  { dedupeKey: () => 'a', dedupeWindowSeconds: '60' },
])('%j is refused at once', async (options) => {
  const producer = await (await scenario()).producer();
  expect(() => producer.writable(options as never)).toThrow(
    expect.objectContaining({ code: 'INVALID_OPTION', field: Object.keys(options).pop() }),
  );
});

test('a key is remembered for its window, and may then come again', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const remembered = async () => {
    const { rows } = await test.pool.query<{ seconds: number }>(
      `select extract(epoch from expires_at - now())::float8 as seconds from ${test.schema}.sluice_dedupe`,
    );
    return rows.map(({ seconds }) => seconds);
  };
  const nearly = (seconds: number): unknown[] => [expect.closeTo(seconds, -2)];
  await load(producer, [{ n: 0, key: 'a' }]);
  expect(await remembered()).toEqual(nearly(604_800));
  // A repeat does not prolong it.
  await load(producer, [{ n: 1, key: 'a' }], { dedupeWindowSeconds: 3_600 });
  expect(await remembered()).toEqual(nearly(604_800));
  await forgetAll(test);
  const again = [2, 3, 4].map((n) => ({ n, key: 'a' }));
  const { stats } = await load(producer, again, { dedupeWindowSeconds: 3_600, batchSize: 2 });
  expect(stats).toMatchObject({ committed: 1, duplicates: 2 });
  expect(await remembered()).toEqual(nearly(3_600));
  expect(await test.delivered()).toEqual([0, 2]);
});

test('a run that is resumed counts what earlier runs put in as duplicates, and repeats nothing', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const options = { ...byKey, resume: 'nightly', batchSize: 50 };
  const half = await producer.ingest(ITEMS.slice(0, 500), options);
  const rest = await producer.ingest(ITEMS, options);
  const expected = firsts(ITEMS);
  expect(await test.delivered()).toEqual(expected);
  expect([half.accepted, rest.accepted]).toEqual([500, 500]);
  expect(half.committed + rest.committed).toBe(expected.length);
  expect(half.duplicates + rest.duplicates).toBe(1_000 - expected.length);
  expect(half.committed).toBe(firsts(ITEMS.slice(0, 500)).length);
});

test.each([
  ['before it is sent', 'copy'],
  ['by the server', 'copy'],
  ['by the server', 'insert'],
] as const)('an item that is refused %s (%s) leaves its key to the next', async (by, method) => {
  const test = await scenario();
  const { pool, schema: s } = test;
  const rejected = await test.sluice.admin.createQueue('rejected');
  if (by === 'by the server') {
    await pool.query(`
      create function ${s}.refuse() returns trigger language plpgsql as $$
      begin raise exception 'refused' using errcode = '23514'; end $$;
      create trigger refuse before insert on ${s}.pgqrs_messages for each row
        when (new.queue_id <> ${rejected.id} and new.payload ? 'bad') execute function ${s}.refuse()`);
  }
  const bad = by === 'by the server' ? 'yes' : '\0';
  const items = [
    { n: 0, key: 'a', bad },
    { n: 1, key: 'a' }, // in the same batch
    { n: 2, key: 'b', bad },
    { n: 3, key: 'a' }, // in the next one
    { n: 4, key: 'b' },
    { n: 5, key: 'b' },
  ];
  const { stats, batches } = await load(await test.producer(), items, {
    ...{ batchSize: 3, method, rejectTo: 'rejected' },
  });
  expect(stats).toMatchObject({ accepted: 6, committed: 2, duplicates: 2, rejected: 2 });
  expect(batches.map(({ rows, duplicates, rejected }) => [rows, duplicates, rejected])).toEqual([
    [1, 0, 2],
    [1, 2, 0],
  ]);
  const work = `select (payload->>'n')::int as n from ${s}.pgqrs_messages where queue_id <> $1 order by id`;
  const { rows } = await pool.query<{ n: number }>(work, [rejected.id]);
  expect(rows.map(({ n }) => n)).toEqual([1, 4]);
  expect(await test.count()).toBe(4);
});

test('keys count as bytes of their batch', async () => {
  const test = await scenario();
  const items = numbers(100).map((n) => ({ n }));
  const stream = (await test.producer()).writable<Item>({
    dedupeKey: ({ n }) => String(n).padStart(2_000, '0'),
    batchBytes: 50_000,
    lingerMs: 60_000,
  });
  await pipeline(Readable.from(items), stream);
  expect(stream.stats).toMatchObject({ committed: 100, batches: 4 });
});
