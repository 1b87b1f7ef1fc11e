import { setImmediate as tick } from 'node:timers/promises';
import type { StandardSchemaV1 } from '@standard-schema/spec';
import { expect, test } from 'vitest';
import { PayloadInvalidError, type Reject } from '../../src/index.js';
import { scenario } from '../support/scenario.js';
import {
  bad,
  deliveredTo,
  expectAddsUp,
  good,
  inOrderOfReport,
  type Item,
  refuseBad,
  rejectsIn,
  without,
} from './rejects-support.js';
import { behindProxy, expectNothingLeft, numbers } from './support.js';
import { FULL } from '../support/total-queue.js';

const ROWS = Number(process.env.SLUICE_POISON_ROWS ?? (FULL ? 100_000 : 20_000));

const cycle: Record<string, unknown> = {};
cycle['self'] = cycle;
const nested = (depth: number) => {
  let value: unknown = 1;
  for (let level = 0; level < depth; level++) value = [value];
  return value;
};
const large = 'x'.repeat(2_000_000);

/** Every way for an item to be bad. `n` is there for whoever wants to look. */
const POISON: ((n: number) => unknown)[] = [
  () => undefined,
  () => () => 1,
  () => Symbol('secret'),
  (n) => ({ n, toJSON: () => undefined }),
  (n) => ({ n, toJSON: () => raise() }),
  (n) => ({ n, value: 1n }),
  (n) => ({ n, cycle }),
  (n) => ({ n, deep: nested(20_000) }),
  (n) => ({ n, value: 'a\0b' }),
  (n) => ({ n, ['a\0b']: 1 }),
  (n) => ({ n, value: '\\\0' }),
  (n) => ({ n, value: '\ud83d' }),
  (n) => ({ n, value: '\ude00\ud83d' }),
  (n) => ({ n, ['\ude00']: 1 }),
  (n) => ({ n, large }),
  (n) => JSON.parse(`{"n":${n},"a":[{"__proto__":1}]}`) as unknown,
  (n) => ({ n, constructor: 1 }),
  (n) => ({ ...good(n), delay: -1 }),
  (n) => ({ ...good(n), delay: Number.NaN }),
  (n) => ({ ...good(n), refuse: 'now' }),
  (n) => ({ ...good(n), refuse: 'later' }),
  (n) => ({ ...good(n), refuse: 'throws' }),
  bad,
  bad,
  bad,
];

function raise(): never {
  throw new Error('secret');
}

/** Refuses what an item asks it to refuse: at once, later, or by an error. */
const schema: StandardSchemaV1 = {
  '~standard': {
    version: 1,
    vendor: 'test',
    validate: (value) => {
      const { refuse } = (value ?? {}) as { refuse?: string };
      const refused = { issues: [{ message: 'secret', path: ['refuse'] }] };
      if (refuse === 'now') return refused;
      if (refuse === 'throws') throw new PayloadInvalidError(undefined, 'not with that');
      return refuse === 'later' ? tick().then(() => refused) : { value };
    },
  },
};

test.each([
  ['copy', 2],
  ['insert', 4],
] as const)(
  `one bad item in a hundred, of every kind, in ${ROWS}: the others are in once, each bad one is told once; %s, %i in flight`,
  async (method, concurrency) => {
    const test = await scenario();
    await test.sluice.admin.createQueue('bad');
    await refuseBad(test);
    const producer = await test.sluice.producer<unknown, unknown>('work', { schema });
    const items = new Map(
      numbers(ROWS / 100).map((at) => {
        const n = at * 100 + ((at * 37) % 100);
        return [n, POISON[at % POISON.length]!(n)] as const;
      }),
    );
    const source = function* () {
      for (let n = 0; n < ROWS; n++) yield items.has(n) ? items.get(n) : good(n);
    };
    const rejects: Reject[] = [];
    const batchSize = 2_000;
    const started = performance.now();
    const summary = await producer.ingest<unknown>(source(), {
      ...{ method, concurrency, batchSize, rejectTo: 'bad' },
      delaySeconds: (item) => (item as { delay?: number } | undefined)?.delay ?? 0,
      onReject: (reject) => void rejects.push(reject),
    });
    console.log(
      `${method}: ${ROWS} rows with ${items.size} bad in ${Math.round(performance.now() - started)} ms`,
    );
    expect(summary).toMatchObject({ accepted: ROWS, rejected: items.size, committed: ROWS - items.size });
    expectAddsUp(summary);
    const places = [...items.keys()].sort((a, b) => a - b);
    expect(rejects.map(({ index }) => index).sort((a, b) => a - b)).toEqual(places);
    // A batch may be cut by its bytes; where it was, what the server refuses comes later than the next one's.
    if (summary.batches === Math.ceil(ROWS / batchSize))
      expect(rejects).toEqual(inOrderOfReport(rejects, batchSize));
    for (const { index, item, text, reason } of rejects) {
      expect(reason).not.toContain('secret');
      if (text === undefined) expect(item).toBe(items.get(index));
      else expect(JSON.parse(text)).toEqual(bad(index));
    }
    expect((await rejectsIn(test)).map(({ index }) => index)).toEqual(places);
    expect(await deliveredTo(test)).toEqual(without(ROWS, places));
    await expectNothingLeft(test);
  },
  300_000,
);

test('the server names each bad row of a COPY: it is asked no more often than there are', async () => {
  const { proxy, through, ...test } = await behindProxy();
  await refuseBad(test);
  const places = [0, 17, 18, 19, 500, 998, 999];
  let refusals = 0;
  proxy.judge = ({ from, data }) => {
    if (from === 'client' && data.includes('rollback to savepoint')) refusals++;
    return 'pass';
  };
  const items = numbers(1_000).map((n) => (places.includes(n) ? bad(n) : good(n)));
  const rejects: number[] = [];
  const onReject = ({ index }: Reject) => void rejects.push(index);
  await through.ingest(items, { batchSize: 1_000, lingerMs: 60_000, onReject });
  expect(rejects).toEqual(places);
  expect(await deliveredTo(test)).toEqual(without(1_000, places));
  expect(refusals).toBe(places.length);
});

test('fifty bad rows among 5,000 are found by the server in seconds', async () => {
  const test = await scenario();
  await refuseBad(test);
  const items: Item[] = numbers(5_000).map((n) => (n % 100 === 37 ? bad(n) : good(n)));
  const producer = await test.producer();
  const time = async (source: Item[]) => {
    const started = performance.now();
    const { rejected } = await producer.ingest(source, { batchSize: 5_000, onReject: () => undefined });
    return { ms: Math.round(performance.now() - started), rejected };
  };
  const clean = await time(items.filter((item) => !item.bad));
  const dirty = await time(items);
  const all = await time(numbers(5_000).map(bad));
  console.log(`a batch of 5,000: ${clean.ms} ms; with 50 bad rows ${dirty.ms} ms; of bad rows only ${all.ms} ms`);
  expect([dirty.rejected, all.rejected]).toEqual([50, 5_000]);
  expect(await test.count()).toBe(2 * 4_950);
  expect(dirty.ms).toBeLessThan(10_000);
}, 120_000); // prettier-ignore
