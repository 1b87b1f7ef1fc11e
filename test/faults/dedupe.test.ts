import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import type { CommittedBatch } from '../../src/index.js';
import { behindProxy, expectNothingLeft, numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { asksToCommit, type Bytes, type Fate, saysCommitted, sendsRows } from '../support/proxy.js';
import { type Scenario, scenario } from '../support/scenario.js';

interface Item {
  n: number;
  key: string | undefined;
}

/** Of three items one is new, one has come a moment or two batches ago, and one has no key. */
function* half(count: number): Generator<Item> {
  for (let n = 0; n < count; n++) {
    if (n % 3 === 2) yield { n, key: undefined };
    else if (n % 3 === 0) yield { n, key: `key ${n}` };
    else yield { n, key: `key ${Math.max(0, n - 1 - 3 * ((n * 7) % 130))}` };
  }
}

const isNew = (n: number) => n % 3 !== 1;

const OPTIONS = {
  dedupeKey: ({ key }: Item) => key,
  ...{ batchSize: 150, retryBaseMs: 1, retryMaxMs: 20 },
};

const COUNT = 30_000;

/** Nothing is lost and nothing is doubled, and what the stream says is true. */
async function expectExact(s: Scenario, stats: object, batches: readonly CommittedBatch[]): Promise<void> {
  const expected = numbers(COUNT).filter(isNew);
  expect(await s.delivered()).toEqual(expected);
  const duplicates = COUNT - expected.length;
  expect(stats).toMatchObject({ accepted: COUNT, committed: expected.length, duplicates, rejected: 0 });
  for (const { rows, duplicates } of batches) expect([rows, duplicates]).toEqual([100, 50]);
}

const MOMENTS = ['mid-COPY', 'before COMMIT', 'during COMMIT', 'after COMMIT', 'after its answer'] as const;
type Moment = (typeof MOMENTS)[number];

test('with connections cut around COMMIT each key arrives once, and the duplicates are counted exactly', async () => {
  const behind = await behindProxy();
  const { proxy, through } = behind;
  const cuts = new Map<Moment, number>();
  const cut = (moment: Moment, fate: Fate = 'cut'): Fate => {
    cuts.set(moment, (cuts.get(moment) ?? 0) + 1);
    return fate;
  };
  let copies = 0;
  proxy.judge = (bytes: Bytes) => {
    const { notes } = bytes.link;
    if (sendsRows(bytes)) {
      const moment = ++copies % 2 === 0 ? MOMENTS[(copies / 2) % MOMENTS.length] : undefined;
      notes.clear();
      if (moment === 'mid-COPY') return cut(moment);
      if (moment) notes.add(moment);
    } else if (asksToCommit(bytes)) {
      if (notes.has('before COMMIT')) return cut('before COMMIT');
      if (notes.has('during COMMIT')) return cut('during COMMIT', 'passThenCut');
    } else if (saysCommitted(bytes)) {
      // The batch is in, with its keys: sent again it meets nothing but its own.
      if (notes.has('after COMMIT')) return cut('after COMMIT');
      if (notes.has('after its answer')) return cut('after its answer', 'passThenCut');
    }
    return 'pass';
  };
  const stream = through.writable<Item>(OPTIONS);
  const batches: CommittedBatch[] = [];
  stream.on('batch', (batch) => batches.push(batch));
  await within(25_000, 'the load', pipeline(Readable.from(half(COUNT)), stream));
  proxy.judge = () => 'pass';
  for (const moment of MOMENTS) expect(cuts.get(moment), moment).toBeGreaterThanOrEqual(10);
  expect(stream.stats.resolved).toBeGreaterThanOrEqual(cuts.get('after COMMIT')!);
  expect(batches).toHaveLength(COUNT / 150);
  await expectExact(behind, stream.stats, batches);
  await expectNothingLeft(behind, behind.sluiceThrough);
});

test('with backends killed at any moment each key arrives once, and the duplicates are counted exactly', async () => {
  const s = await scenario();
  const stream = (await s.producer()).writable<Item>({ ...OPTIONS, retries: 1_000 });
  const batches: CommittedBatch[] = [];
  stream.on('batch', (batch) => batches.push(batch));
  let over = false;
  const loaded = pipeline(Readable.from(half(COUNT)), stream).finally(() => (over = true));
  loaded.catch(() => undefined);
  const kill = `
    select pg_terminate_backend(pid) from pg_stat_activity
    where pid <> pg_backend_pid() and state <> 'idle' and position($1 in query) > 0 and xact_start is not null`;
  await eventually(
    'the load',
    async () => {
      // Between two kills something has to get through.
      const next = stream.stats.batches + 3;
      await eventually('some batches', () => over || stream.stats.batches >= next);
      if (!over) await s.pool.query(kill, [s.schema]);
      return over;
    },
    25_000,
  );
  await loaded;
  expect(stream.stats.retries).toBeGreaterThanOrEqual(10);
  await expectExact(s, stream.stats, batches);
  await expectNothingLeft(s);
});

test('two streams with the same keys, each of them cut now and then: each key arrives once', async () => {
  const behind = await behindProxy();
  const { proxy, through, pool, schema } = behind;
  let copies = 0;
  proxy.judge = (bytes) => {
    const { notes } = bytes.link;
    if (sendsRows(bytes)) {
      notes.clear();
      if (++copies % 3 === 0) notes.add(copies % 2 === 0 ? 'asked' : 'answered');
    } else if (asksToCommit(bytes) && notes.has('asked')) return 'passThenCut';
    else if (saysCommitted(bytes) && notes.has('answered')) return 'cut';
    return 'pass';
  };
  const items = numbers(3_000).map((n) => ({ n, key: `key ${n}` }));
  const sides = [items, [...items].reverse()];
  const summaries = await within(
    25_000,
    'both loads',
    Promise.all(sides.map((side) => through.ingest<Item>(side, { ...OPTIONS, batchSize: 50 }))),
  );
  expect(summaries.reduce((sum, { committed }) => sum + committed, 0)).toBe(3_000);
  expect(summaries.reduce((sum, { duplicates }) => sum + duplicates, 0)).toBe(3_000);
  expect(summaries.reduce((sum, { retries }) => sum + retries, 0)).toBeGreaterThanOrEqual(10);
  const { rows } = await pool.query<{ n: number }>(
    `select (payload->>'n')::int as n from ${schema}.pgqrs_messages order by n`,
  );
  expect(rows.map(({ n }) => n)).toEqual(numbers(3_000));
  await expectNothingLeft(behind, behind.sluiceThrough);
});
