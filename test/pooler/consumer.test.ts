import { describe, expect, test } from 'vitest';
import { numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { missing, POOL_SIZE } from './pgbouncer.js';
import { pooled, type Pooled } from './pooled.js';

interface Row {
  n: number;
  readCount: number;
  archived: boolean;
  held: boolean;
}

async function rows({ pool, schema }: Pooled): Promise<Row[]> {
  const { rows } = await pool.query<Row>(
    `select (payload->>'n')::int as n, read_ct as "readCount", archived_at is not null as archived,
       consumer_worker_id is not null as held
     from ${schema}.pgqrs_messages order by id`,
  );
  return rows;
}

describe.skipIf(missing !== undefined)('a consumer through PgBouncer', () => {
  test('claimed messages are archived, deleted, released and extended', async () => {
    const s = await pooled();
    await (await s.producer()).ingest(numbered(5));
    const consumer = await s.consumer();
    const first = await consumer.dequeue<{ n: number }>();
    const [archived, deleted, released, kept] = await consumer.dequeueMany<{ n: number }>(4);
    expect([first, archived, deleted, released, kept].map((message) => message?.payload.n)).toEqual(
      numbers(5),
    );
    expect(await consumer.archiveMany([first!, archived!])).toEqual([true, true]);
    expect(await deleted!.delete()).toBe(true);
    expect(await released!.release({ delaySeconds: 100 })).toBe(true);
    expect(await kept!.extendVisibility(100)).toBe(true);
    expect(await first!.archive()).toBe(false);
    expect(await rows(s)).toEqual([
      { n: 0, readCount: 1, archived: true, held: expect.any(Boolean) as boolean },
      { n: 1, readCount: 1, archived: true, held: expect.any(Boolean) as boolean },
      { n: 3, readCount: 1, archived: false, held: false },
      { n: 4, readCount: 1, archived: false, held: true },
    ]);
  });

  test('two workers with many streams share the messages: each comes once and is settled once', async () => {
    const s = await pooled();
    const total = 2_000;
    await (await s.producer()).ingest(numbered(total), { batchSize: 100 });
    const other = await s.another();
    const consumers = [await s.consumer(), await other.consumer('work')];
    const got: number[] = [];
    const reading = consumers.flatMap((consumer) =>
      numbers(POOL_SIZE).map(async (turn) => {
        for await (const message of consumer.messages<{ n: number }>({ prefetch: 10 + turn })) {
          got.push(message.payload.n);
          expect(await (turn % 2 === 0 ? message.archive() : message.delete())).toBe(true);
        }
      }),
    );
    await eventually('all messages', () => got.length >= total, 30_000);
    await Promise.all(consumers.map((consumer) => consumer.close()));
    await within(5_000, 'the readers', Promise.all(reading));
    expect(got.toSorted((a, b) => a - b)).toEqual(numbers(total));
    const left = await rows(s);
    expect(left.every(({ archived, readCount }) => archived && readCount === 1)).toBe(true);
    expect((await s.pooler.backends()).length).toBeLessThanOrEqual(POOL_SIZE);
  });
});
