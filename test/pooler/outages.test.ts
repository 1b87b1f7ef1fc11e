import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, expect, test } from 'vitest';
import type { Message } from '../../src/index.js';
import { expectNothingLeft, numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { missing } from './pgbouncer.js';
import { type Pooled, pooled } from './pooled.js';

/** What befalls the pooler, and how it is brought back. */
const OUTAGES = {
  'the server connections behind the pooler are killed': async ({ pooler, pool }: Pooled) => {
    const pids = await pooler.backends();
    const { rowCount } = await pool.query('select pg_terminate_backend(pid) from unnest($1::int[]) as pid', [
      pids,
    ]);
    expect(rowCount).toBeGreaterThan(0);
  },
  'the pooler ends and comes back on its port': async ({ pooler }: Pooled) => {
    await pooler.end();
    await pooler.start();
  },
};
const HOW_OFTEN = 5;
const ROWS = 20_000;

describe.skipIf(missing !== undefined).each(Object.entries(OUTAGES))('%s', (_, befall) => {
  test.each(['copy', 'insert'] as const)(
    'during a stream by %s, time and again: nothing is lost, doubled or out of order',
    async (method) => {
      const s = await pooled();
      const producer = await s.producer();
      const stream = producer.writable({ method, batchSize: 200, retries: 1_000, retryMaxMs: 200 });
      let committed = 0;
      stream.on('batch', ({ rows }) => (committed += rows));
      // The source waits for each outage, so that all of them fall into the stream.
      let outages = 0;
      let wanted = 0;
      async function* source() {
        for (const item of numbered(ROWS)) {
          yield item;
          if (item.n % (ROWS / HOW_OFTEN) === ROWS / HOW_OFTEN / 2) {
            wanted++;
            await eventually('the outage', () => outages >= wanted, 20_000);
          }
        }
      }
      const loaded = pipeline(Readable.from(source()), stream);
      loaded.catch(() => undefined);
      for (let n = 0; n < HOW_OFTEN; n++) {
        const before = committed;
        await eventually('a commit', () => committed > before);
        await befall(s);
        outages++;
      }
      await within(30_000, 'the stream', loaded);
      expect(committed).toBe(ROWS);
      expect(await s.delivered()).toEqual(numbers(ROWS));
      await expectNothingLeft(s, s.sluice);
    },
  );

  test('while messages are read: each comes until it is archived', async () => {
    const s = await pooled({ defaultLockTimeSeconds: 2, pollIntervalMs: 100, maxReadCount: 100 });
    const total = 300;
    await (await s.producer()).ingest(numbered(total));
    const consumer = await s.consumer();
    const archived: number[] = [];
    const stream = consumer.messages<{ n: number }>({ prefetch: 10 });
    const settle = async (message: Message<{ n: number }>) => {
      if (await message.archive().catch(() => false)) archived.push(message.payload.n);
    };
    const reading = (async () => {
      for await (const message of stream) await settle(message);
    })();
    for (let n = 1; n <= HOW_OFTEN; n++) {
      const enough = (n * total) / (HOW_OFTEN + 1);
      await eventually(`${enough} messages`, () => archived.length >= enough, 20_000);
      await befall(s);
    }
    const left = async () => {
      const { rows } = await s.pool.query<{ count: number }>(
        `select count(*)::int as count from ${s.schema}.pgqrs_messages where archived_at is null`,
      );
      return rows[0]!.count;
    };
    await eventually('the end', async () => (await left()) === 0, 30_000);
    stream.destroy();
    await within(
      5_000,
      'the reader',
      reading.catch(() => undefined),
    );
    // An answer that was lost is no archiving of ours; none is confirmed twice.
    expect(new Set(archived).size).toBe(archived.length);
    expect(await s.count()).toBe(total);
  });
});
