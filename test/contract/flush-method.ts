import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, expect, test } from 'vitest';
import type { FlushMethod } from '../../src/ingest/flush.js';
import type { WritableOptions } from '../../src/index.js';
import type { CommittedBatch } from '../../streams/sink.js';
import { numbers } from '../ingest/support.js';
import { eventually } from '../support/eventually.js';
import { numbered, type Scenario, scenario } from '../support/scenario.js';

/** Everything that JSON can be, but a bare null, which no Node stream can carry. */
const KINDS: readonly unknown[] = [
  ...[
    true,
    false,
    0,
    -0.5,
    1e300,
    5e-324,
    Number.MAX_SAFE_INTEGER,
    Number.NaN,
    '',
    'text',
    [],
    {},
    [null],
    [[[]]],
  ],
  ...[
    { a: null, b: [1, 'two', { three: 3 }], '': 'empty key' },
    { toJSON: () => 'from toJSON' },
    new Date(0),
  ],
  'ünïcode ✓ 😀 \u{10ffff} \ufeff \u2028',
  'quotes " and \' and backslashes \\ \\\\ \\u0000 \\n and tabs \t and lines \r\n\f\b\v\u0001\u007f',
  '\\.',
  '\\N',
  'PGCOPY\n\xff\r\n\0'.replace('\0', ''),
  { '__proto__ "\\': { 'ключ 😀': ['значение'] } },
];

interface StoredRow {
  payload: unknown;
  queue_id: string;
  producer_worker_id: string;
  origin: number;
  read_ct: number;
  delay: string;
  dequeued_at: null;
  consumer_worker_id: null;
  archived_at: null;
}

/** All columns of all rows in the order of delivery, times as what they are beside one another. */
export async function storedRows({ pool, schema }: Scenario): Promise<StoredRow[]> {
  const { rows } = await pool.query<StoredRow>(
    `select payload, queue_id, producer_worker_id, origin, read_ct, (vt - enqueued_at)::text as delay,
       dequeued_at, consumer_worker_id, archived_at
     from ${schema}.pgqrs_messages order by vt, id`,
  );
  return rows;
}

/** What one way of sending batches must do, whichever it is. */
export function describeFlushMethod(method: FlushMethod): void {
  const load = async (test: Scenario, items: Iterable<unknown>, options: WritableOptions<never> = {}) => {
    const producer = await test.producer();
    const stream = producer.writable({ ...options, method });
    const batches: CommittedBatch[] = [];
    stream.on('batch', (batch) => batches.push(batch));
    await pipeline(Readable.from(items), stream);
    return { producer, stream, batches };
  };

  describe(`a batch that is sent by ${method}`, () => {
    test('stores every kind of JSON, unicode and escapes as they are', async () => {
      const test = await scenario();
      await load(test, KINDS);
      const stored = (await storedRows(test)).map(({ payload }) => payload);
      expect(stored).toEqual(JSON.parse(JSON.stringify(KINDS)));
    });

    test('stores payloads of 1 MiB', async () => {
      const test = await scenario();
      const big = (n: number) => ({ n, text: 'ü\\"'.repeat(1_048_576 / 6 - 10) });
      await load(test, [big(0), big(1), big(2)]);
      expect((await storedRows(test)).map(({ payload }) => payload)).toEqual([big(0), big(1), big(2)]);
    });

    test('delivers in the order of the source', async () => {
      const test = await scenario();
      const { batches } = await load(test, numbered(2_500), {
        batchSize: 200,
        concurrency: 4,
        lingerMs: 60_000,
      });
      expect(await test.delivered()).toEqual(numbers(2_500));
      expect(batches.map(({ seq }) => seq)).toEqual(numbers(13).map((n) => n + 1));
      expect(new Set(batches.map((batch) => batch.method))).toEqual(new Set([method]));
    });

    test('fills every column', async () => {
      const test = await scenario();
      const { producer } = await load(test, [{ n: 0 }]);
      expect(await storedRows(test)).toEqual([
        {
          payload: { n: 0 },
          queue_id: test.queue.id,
          producer_worker_id: producer.workerId,
          origin: 1,
          read_ct: 0,
          delay: '00:00:00',
          dequeued_at: null,
          consumer_worker_id: null,
          archived_at: null,
        },
      ]);
    });

    test('delays all messages', async () => {
      const test = await scenario();
      await load(test, numbered(3), { delaySeconds: 90 });
      expect((await storedRows(test)).map(({ delay }) => delay)).toEqual([
        '00:01:30',
        '00:01:30',
        '00:01:30',
      ]);
    });

    test('delays each message by its own, up to 136 years', async () => {
      const test = await scenario();
      const delays = [4_294_967_295, 0, 7, 86_400];
      await load(test, delays, { delaySeconds: (delay: number) => delay });
      const stored = await storedRows(test);
      expect(stored.map(({ payload }) => payload)).toEqual([0, 7, 86_400, 4_294_967_295]);
      expect(stored.map(({ delay }) => delay)).toEqual([
        '00:00:00',
        '00:00:07',
        '1 day',
        '49710 days 06:28:15',
      ]);
    });

    test('has committed when finish fires: another connection sees the rows', async () => {
      const test = await scenario();
      const stream = (await test.producer()).writable({ method });
      for (const item of numbered(1_234)) stream.write(item);
      const seen = new Promise((resolve) => stream.once('finish', () => resolve(test.count())));
      stream.end();
      expect(await seen).toBe(1_234);
    });

    test('is full at batchSize rows', async () => {
      const test = await scenario();
      const { batches } = await load(test, numbered(25), { batchSize: 10, lingerMs: 60_000 });
      expect(batches.map(({ rows }) => rows)).toEqual([10, 10, 5]);
    });

    test('is full at batchBytes bytes', async () => {
      const test = await scenario();
      const items = numbers(10).map((n) => ({ n, text: 'x'.repeat(1_000) }));
      const { batches, stream } = await load(test, items, { batchBytes: 3_000, lingerMs: 60_000 });
      expect(batches.map(({ rows }) => rows)).toEqual([3, 3, 3, 1]);
      expect(batches[0]?.bytes).toBeGreaterThanOrEqual(3_000);
      expect(batches[0]?.bytes).toBeLessThan(4_200);
      expect(stream.stats.bytes).toBe(batches.reduce((sum, { bytes }) => sum + bytes, 0));
    });

    test('is sent lingerMs after its first row though it is not full', async () => {
      const test = await scenario();
      const stream = (await test.producer()).writable({ method, lingerMs: 20 });
      stream.write({ n: 0 });
      stream.write({ n: 1 });
      await eventually('the rows of the unfinished stream', async () => (await test.count()) === 2, 5_000);
      stream.write({ n: 2 });
      await new Promise<void>((resolve) => stream.end(resolve));
      expect(stream.stats).toMatchObject({ batches: 2, committed: 3 });
    });
  });
}
