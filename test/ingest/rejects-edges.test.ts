import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import type { Reject } from '../../src/index.js';
import type { CommittedBatch } from '../../streams/sink.js';
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
  uniqueTexts,
  without,
} from './rejects-support.js';
import { expectNothingLeft, ledger, numbers } from './support.js';

const here = () => ({ value: 1n });

test('batches of nothing but rejects are batches: found here, by the server, by both', async () => {
  const test = await scenario();
  await test.sluice.admin.createQueue('bad');
  await refuseBad(test);
  const items = new Map<number, unknown>();
  for (const n of numbers(10)) {
    items.set(10 + n, here());
    items.set(20 + n, bad(20 + n));
    items.set(30 + n, n % 2 ? here() : bad(30 + n));
  }
  const stream = (await test.producer()).writable<unknown>({ batchSize: 10, rejectTo: 'bad' });
  const batches: CommittedBatch[] = [];
  stream.on('batch', (batch) => batches.push(batch));
  await pipeline(Readable.from(mixed(50, items)), stream);
  expect(batches.map(({ seq, rows, rejected, duplicates, position }) => [seq, rows, rejected, duplicates, position])).toEqual([
    [1, 10, 0, 0, '10'],
    [2, 0, 10, 0, '20'],
    [3, 0, 10, 0, '30'],
    [4, 0, 10, 0, '40'],
    [5, 10, 0, 0, '50'],
  ]); // prettier-ignore
  expect(stream.stats).toMatchObject({
    accepted: 50,
    committed: 20,
    rejected: 30,
    batches: 5,
    position: '50',
  });
  expectAddsUp(stream.stats);
  expect((await rejectsIn(test)).map(({ index }) => index)).toEqual(without(50, without(50, items.keys())));
  expect(await deliveredTo(test)).toEqual(without(50, items.keys()));
  await expectNothingLeft(test);
});

test.each([
  ['the first', [0]],
  ['the last', [29]],
  ['the first and the last, twice', [0, 1, 28, 29]],
  ['all', numbers(30)],
])('%s may be bad, for both to find, whatever the size of batches', async (_which, places) => {
  const test = await scenario();
  await refuseBad(test);
  const producer = await test.producer();
  for (const batchSize of [1, 2, 7, 30, 100]) {
    for (const make of [here, bad]) {
      const items = new Map(places.map((n) => [n, make(n)] as const));
      const rejects: Reject[] = [];
      const onReject = (reject: Reject) => void rejects.push(reject);
      const summary = await producer.ingest(mixed(30, items), { batchSize, onReject });
      expect(rejects.map(({ index }) => index)).toEqual(places);
      expect(summary).toMatchObject({
        ...{ accepted: 30, committed: 30 - places.length, rejected: places.length },
        ...{ position: '30', batches: Math.ceil(30 / batchSize) },
      });
      expect(await test.delivered()).toEqual(without(30, places));
      await test.pool.query(`delete from ${test.schema}.pgqrs_messages`);
    }
  }
  await expectNothingLeft(test);
});

test('a batch that lingers is sent when all that it has are rejects', async () => {
  const test = await scenario();
  await test.sluice.admin.createQueue('bad');
  const stream = (await test.producer()).writable<unknown>({ rejectTo: 'bad', lingerMs: 20 });
  stream.write(here());
  await eventually('the first reject', async () => (await rejectsIn(test)).length === 1);
  expect(stream.stats).toMatchObject({ accepted: 1, rejected: 1, committed: 0, position: '1' });
  stream.write(here());
  stream.write(good(2));
  await eventually('the second one', async () => (await rejectsIn(test)).length === 2);
  expect(await test.delivered()).toEqual(expect.arrayContaining([2]));
  stream.end(here());
  await within(10_000, 'the end', new Promise((resolve) => stream.once('finish', resolve)));
  expect((await rejectsIn(test)).map(({ index }) => index)).toEqual([0, 1, 3]);
});

test('rejects fill a batch by their bytes too', async () => {
  const test = await scenario();
  const stream = (await test.producer({ maxPayloadBytes: 1_000 })).writable({
    ...{ batchBytes: 100_000, lingerMs: 60_000 },
    onReject: () => undefined,
  });
  const large = 'x'.repeat(60_000);
  for (let n = 0; n < 10; n++) stream.write({ large });
  await eventually('five batches', () => stream.stats.batches === 5);
  expect(stream.stats).toMatchObject({ accepted: 10, rejected: 10, position: '10' });
  await new Promise<void>((resolve) => stream.end(resolve));
});

test('a delay that is none, or a key that is none, is a reject; delays of the others stay with their items', async () => {
  const test = await scenario();
  await refuseBad(test);
  const producer = await test.producer();
  const rejects: Reject[] = [];
  const wrong = new Map<number, unknown>([[3, -1], [4, 0.5], [14, '7'], [25, undefined]]); // prettier-ignore
  const summary = await producer.ingest([...numbers(40).map((n) => (n % 9 === 5 ? bad(n) : good(n)))], {
    ...{ batchSize: 10, method: 'copy' },
    delaySeconds: ({ n }) => (wrong.has(n) ? (wrong.get(n) as number) : 1_000 + n * 100),
    dedupeKey: ({ n }) => (n === 31 ? 'x'.repeat(3_000) : String(n)),
    onReject: (reject) => void rejects.push(reject),
  });
  const places = [...wrong.keys(), 31, 5, 14, 23, 32];
  expect(new Set(rejects.map(({ index }) => index))).toEqual(new Set(places));
  expect(rejects.find(({ index }) => index === 4)).toEqual({
    ...{ index: 4, code: 'INVALID_OPTION', item: good(4) },
    reason: 'delaySeconds of the item at index 4 must be a whole number from 0 to 4294967295, got 0.5',
  });
  expectAddsUp(summary);
  const { rows } = await test.pool.query<{ n: number; delay: number }>(
    `select (payload->>'n')::int as n, round(extract(epoch from vt - enqueued_at))::int as delay
     from ${test.schema}.pgqrs_messages order by id`,
  );
  expect(rows).toEqual(without(40, places).map((n) => ({ n, delay: 1_000 + n * 100 })));
});

test('a stream goes on behind a batch that ended in rejects, with the right indexes', async () => {
  const test = await scenario();
  await refuseBad(test);
  const producer = await test.producer();
  const items = new Map<number, unknown>([[17, bad(17)], [18, here()], [19, bad(19)], [20, here()], [33, here()]]); // prettier-ignore
  const rejects: Reject[] = [];
  const options = {
    ...{ batchSize: 10, resume: 'mine' },
    onReject: (reject: Reject) => void rejects.push(reject),
  };
  const first = await producer.ingest(mixed(20, items), options);
  expect(first).toMatchObject({ accepted: 20, committed: 17, rejected: 3, position: '20' });
  expect(await ledger(test)).toMatchObject([{ name: 'mine', position: '20' }]);
  const second = await producer.ingest(mixed(40, items), options);
  expect(second).toMatchObject({ accepted: 20, committed: 18, rejected: 2, position: '40' });
  expect(rejects.map(({ index }) => index)).toEqual([18, 17, 19, 20, 33]);
  expect(await test.delivered()).toEqual(without(40, items.keys()));
});

test('a run that fails behind rejects reports those of its open batch again, and stores no reject twice', async () => {
  const test = await scenario();
  await test.sluice.admin.createQueue('bad');
  const producer = await test.producer();
  const reported: number[] = [];
  const options = {
    ...{
      batchSize: 10,
      resume: { name: 'mine', position: (_item: unknown, index: number) => `at ${index}` },
    },
    ...{ rejectTo: 'bad', maxRejects: 2 },
    onReject: ({ index }: Reject) => void reported.push(index),
  };
  const items = new Map([5, 12, 25, 26].map((n) => [n, here()] as const));
  await expect(producer.ingest(mixed(30, items), options)).rejects.toMatchObject({
    ...{ code: 'TOO_MANY_REJECTS', progress: { committed: 18, position: 'at 19' } },
  });
  await producer.ingest(mixed(30, items), { ...options, maxRejects: 4 });
  // Counted from where the second run began to write: its index is the item's place in what it was given.
  expect(reported.slice(0, 2)).toEqual([5, 12]);
  expect(reported).toHaveLength(4);
  expect(await rejectsIn(test)).toHaveLength(4);
  expect(await deliveredTo(test)).toEqual(without(30, items.keys()));
});

test('a unique index: the first of its like is in, later ones are rejects, in a batch and over batches in flight', async () => {
  const test = await scenario();
  await uniqueTexts(test);
  const same = new Map([3, 4, 9, 12, 25, 26].map((n) => [n, { n, text: 'the same' }] as const));
  const rejects: Reject[] = [];
  const started = performance.now();
  const summary = await (await test.producer()).ingest(mixed(40, same), {
    ...{ batchSize: 10, concurrency: 4 },
    onReject: (reject) => void rejects.push(reject),
  }); // prettier-ignore
  expect(rejects.map(({ index }) => index)).toEqual([4, 9, 12, 25, 26]);
  expect(await test.delivered()).toEqual(without(40, [4, 9, 12, 25, 26]));
  expect(summary).toMatchObject({ committed: 35, rejected: 5, retries: 0 });
  // A batch that waits in the server for a later one, which waits here for its turn, is freed when that goes back.
  expect(performance.now() - started).toBeLessThan(30_000);
});
