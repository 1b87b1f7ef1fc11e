import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import { behindProxy, expectNothingLeft, numbers } from '../ingest/support.js';
import { within } from '../support/eventually.js';
import { type Proxy, sendsRows } from '../support/proxy.js';
import { numbered } from '../support/scenario.js';

const OPTIONS = { batchSize: 100, concurrency: 4, retryBaseMs: 1, retryMaxMs: 20 };

/** Cuts every nth COPY. */
function cutEvery(proxy: Proxy, nth: number): () => number {
  let copies = 0;
  let cuts = 0;
  proxy.judge = (bytes) => {
    if (!sendsRows(bytes) || ++copies % nth !== 0) return 'pass';
    cuts++;
    return 'cut';
  };
  return () => cuts;
}

test.each([1, 2])(
  'four batches in flight and a pool of %i do not block each other, not even under faults',
  async (max) => {
    const behind = await behindProxy({ maxConnections: max });
    const cuts = cutEvery(behind.proxy, 5);
    await within(
      20_000,
      'the load',
      pipeline(Readable.from(numbered(10_000)), behind.through.writable(OPTIONS)),
    );
    expect(cuts()).toBeGreaterThan(15);
    expect(await behind.delivered()).toEqual(numbers(10_000));
    await expectNothingLeft(behind, behind.sluiceThrough);
  },
);

test('two streams share a pool of two under faults, and each keeps its order', async () => {
  const behind = await behindProxy({ maxConnections: 2 });
  const { proxy, through, pool, schema } = behind;
  const cuts = cutEvery(proxy, 6);
  const load = (part: string) =>
    pipeline(
      Readable.from([...numbered(5_000)].map((item) => ({ ...item, part }))),
      through.writable(OPTIONS),
    );
  await within(20_000, 'both loads', Promise.all([load('a'), load('b')]));
  expect(cuts()).toBeGreaterThan(10);
  for (const part of ['a', 'b']) {
    const { rows } = await pool.query<{ n: number }>(
      `select (payload->>'n')::int as n from ${schema}.pgqrs_messages where payload->>'part' = $1 order by vt, id`,
      [part],
    );
    expect(rows.map(({ n }) => n)).toEqual(numbers(5_000));
  }
  await expectNothingLeft(behind, behind.sluiceThrough);
});
