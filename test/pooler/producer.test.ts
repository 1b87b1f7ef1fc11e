import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, expect, test } from 'vitest';
import type { StoredMessage } from '../../src/index.js';
import { numbers } from '../ingest/support.js';
import { within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { missing, POOL_SIZE } from './pgbouncer.js';
import { pooled } from './pooled.js';

const ROWS = 20_000;

describe.skipIf(missing !== undefined)('a producer through PgBouncer', () => {
  test.each(['copy', 'insert'] as const)(
    'a stream by %s delivers every row once, in its order',
    async (method) => {
      const s = await pooled();
      const producer = await s.producer();
      const stream = producer.writable({ method, batchSize: 500, concurrency: 4 });
      await within(30_000, 'the stream', pipeline(Readable.from(numbered(ROWS)), stream));
      expect(await s.delivered()).toEqual(numbers(ROWS));
    },
  );

  test('an ingest under a name goes on where it ended, and a source read again adds nothing', async () => {
    const s = await pooled();
    const options = { resume: 'orders', batchSize: 100 };
    await (await s.producer()).ingest(numbered(1_000), options);
    const again = await (await (await s.another()).producer('work')).ingest(numbered(1_500), options);
    expect(again.position).toBe('1500');
    expect(await s.delivered()).toEqual(numbers(1_500));
  });

  test('fifty callers at once get each its message, though no prepared statement can be relied on', async () => {
    const s = await pooled();
    // More connections than the pooler has: they find each other's statements, or none.
    const sluices = [s.sluice, await s.another(), await s.another()];
    const producers = await Promise.all(sluices.map((sluice) => sluice.producer<{ n: number }>('work')));
    const [callers, rounds] = [50, 20];
    await Promise.all(
      numbers(callers).map(async (caller) => {
        const producer = producers[caller % producers.length]!;
        for (let round = 0; round < rounds; round++) {
          const n = caller * rounds + round;
          const message = (await producer.enqueue({ n })) as StoredMessage<{ n: number }>;
          expect(message.payload).toEqual({ n });
        }
      }),
    );
    expect((await s.delivered()).toSorted((a, b) => a - b)).toEqual(numbers(callers * rounds));
    expect((await s.pooler.backends()).length).toBeLessThanOrEqual(POOL_SIZE);
  });

  test('batches of concurrent callers are stored whole, each in its order', async () => {
    const s = await pooled();
    const producer = await s.producer();
    await Promise.all(
      numbers(20).map((batch) => producer.batchEnqueue(numbers(50).map((n) => ({ n: batch * 50 + n })))),
    );
    const delivered = await s.delivered();
    expect(delivered.toSorted((a, b) => a - b)).toEqual(numbers(1_000));
    for (const batch of numbers(20)) {
      const own = delivered.filter((n) => Math.floor(n / 50) === batch);
      expect(own).toEqual(numbers(50).map((n) => batch * 50 + n));
    }
  });

  test('a delay counts by the clock of the server, and a lease is extended', async () => {
    const s = await pooled();
    const producer = await s.producer();
    const later = await producer.enqueueDelayed({ n: 0 }, 100);
    expect(later.vt.getTime() - later.enqueuedAt.getTime()).toBe(100_000);
    expect(await producer.extendVisibility(later.id, 30)).toBe(false);
    const { id } = await producer.enqueue({ n: 1 });
    const held = (await (await s.consumer()).dequeue({ lockSeconds: 100 }))!;
    expect(held.id).toBe(id);
    expect(await producer.extendVisibility(id, 30)).toBe(true);
    const { rows } = await s.pool.query<{ seconds: number }>(
      `select extract(epoch from vt - dequeued_at)::float8 as seconds from ${s.schema}.pgqrs_messages where id = $1`,
      [id],
    );
    expect(rows).toEqual([{ seconds: 130 }]);
  });
});
