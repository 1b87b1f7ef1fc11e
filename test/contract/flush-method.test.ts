import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import { rowFormat, Rows } from '../../src/ingest/rows.js';
import { PayloadCheck } from '../../src/validation.js';
import { insertMessages } from '../../src/sql/batches.js';
import type { CommittedBatch } from '../../streams/sink.js';
import { numbers } from '../ingest/support.js';
import { numbered, scenario } from '../support/scenario.js';
import { describeFlushMethod, storedRows } from './flush-method.js';

for (const method of ['copy', 'insert'] as const) describeFlushMethod(method);

test('both methods store the same rows, column by column', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const delaySeconds = ({ n }: { n: number }) => (n % 7) * 100;
  for (const method of ['copy', 'insert'] as const) {
    await producer.ingest(numbered(500), { method, delaySeconds, batchSize: 500 });
  }
  const rows = await storedRows(test);
  const of = (parity: number) => {
    const seen = new Map<string, number>();
    return rows.filter(({ payload }) => {
      const key = JSON.stringify(payload);
      seen.set(key, (seen.get(key) ?? -1) + 1);
      return seen.get(key) === parity;
    });
  };
  expect(of(0)).toHaveLength(500);
  expect(of(1)).toEqual(of(0));
});

test('auto sends batches of every size by copy', async () => {
  const test = await scenario();
  const stream = (await test.producer()).writable({ batchSize: 1_000, lingerMs: 60_000 });
  const batches: CommittedBatch[] = [];
  stream.on('batch', (batch) => batches.push(batch));
  await pipeline(Readable.from(numbered(1_010)), stream);
  expect(batches.map(({ method, rows }) => [method, rows])).toEqual([
    ['copy', 1_000],
    ['copy', 10],
  ]);
  expect(await test.delivered()).toEqual(numbers(1_010));
});

test('an insert has the same number of parameters whatever the number of rows', async () => {
  const counts = new Set<number>();
  for (const rows of [1, 100, 70_000]) {
    const batch = new Rows(rowFormat('1', '2', true, new PayloadCheck()));
    for (let n = 0; n < rows; n++) batch.append({ n }, n, n);
    const on = {
      schema: 's',
      query: (_text: string, values: readonly unknown[] = []) => {
        counts.add(values.length);
        return Promise.resolve([{ count: rows }] as never[]);
      },
    };
    await insertMessages(on, '1', '2', batch.payloadArray(), batch.delays, rows);
  }
  expect([...counts]).toEqual([5]);
});
