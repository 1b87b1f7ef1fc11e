import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import { eventually } from '../support/eventually.js';
import { type Scenario, scenario } from '../support/scenario.js';
import { numbers } from './support.js';

/** Keeps every batch waiting until the test lets it go: a slow server. */
async function heldTable({ pool, schema }: Scenario) {
  const client = await pool.connect();
  await client.query(`begin; lock ${schema}.pgqrs_messages in share mode`);
  return {
    waiting: async () => {
      const { rows } = await pool.query<{ count: number }>(
        `select count(*)::int from pg_locks where relation = '${schema}.pgqrs_messages'::regclass and not granted`,
      );
      return rows[0]!.count;
    },
    letGo: async () => {
      await client.query('commit');
      client.release();
    },
  };
}

test.each([
  ['rows', 2, { batchSize: 100 }, 100, 20],
  ['bytes', 4, { batchBytes: 1_000_000 }, 10, 100_000],
])(
  'while the server is slow no more is taken in than the batches in flight and one more hold, by %s',
  async (_by, concurrency, limits, perBatch, textBytes) => {
    const test = await scenario({ maxConnections: 6 });
    const held = await heldTable(test);
    const stream = (await test.producer()).writable({
      ...limits,
      concurrency,
      lingerMs: 60_000,
      method: 'copy',
    });
    const items = perBatch * (concurrency + 4);
    const text = 'x'.repeat(textBytes);
    let taken = 0;
    const source = function* () {
      for (; taken < items; taken++) yield { n: taken, text };
    };
    const loaded = pipeline(Readable.from(source()), stream);
    await eventually('all places to be taken', async () => (await held.waiting()) === concurrency);
    await eventually(
      'one more batch to be full',
      () => stream.stats.accepted >= perBatch * (concurrency + 1),
    );
    await held.waiting();
    expect(stream.stats.accepted).toBe(perBatch * (concurrency + 1));
    expect(taken).toBeLessThanOrEqual(perBatch * (concurrency + 1) + stream.writableHighWaterMark + 2);
    expect(stream.stats.committed).toBe(0);
    await held.letGo();
    await loaded;
    expect(await test.delivered()).toEqual(numbers(items));
  },
);

test('heartbeats go out while the pool is full of batches that wait', async () => {
  const test = await scenario({ maxConnections: 2 });
  const held = await heldTable(test);
  const producer = await test.producer({ heartbeatIntervalSeconds: 0.05 });
  const stream = producer.writable({ batchSize: 10 });
  for (const n of numbers(20)) stream.write({ n });
  await eventually('both connections to be taken', async () => (await held.waiting()) === 2);
  const beat = async () => {
    const { rows } = await test.pool.query<{ at: Date }>(
      `select heartbeat_at as at from ${test.schema}.pgqrs_workers`,
    );
    return rows[0]!.at.getTime();
  };
  const before = await beat();
  await eventually('a heartbeat', async () => (await beat()) > before);
  await held.letGo();
  await new Promise<void>((resolve) => stream.end(resolve));
  expect(await test.count()).toBe(20);
});
