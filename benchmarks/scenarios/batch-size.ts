import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type Bench, withBench } from '../harness/bench.js';
import { orders } from '../harness/orders.js';
import { interleave, median, medianRatio } from '../harness/rounds.js';
import { printTable } from '../harness/table.js';

const SIZES = [1, 10, 100, 1_000, 5_000, 20_000];
const METHODS = ['copy', 'insert'] as const;
/** Small batches are slow: so many of them say enough. */
const MOST_BATCHES = 500;

interface Case {
  size: number;
  method: (typeof METHODS)[number];
  rows: number;
}

interface Result extends Case {
  rowsPerSecond: number;
  msPerBatch: number;
  /** Of each round. */
  ms: readonly number[];
}

/** Which batch size, with which method, and is there a size from which on `auto` should take the other one? */
export async function batchSize({ rows, rounds }: { rows: number; rounds: number }): Promise<void> {
  await withBench('batch-size', async (bench) => {
    const sizes = SIZES.filter((size) => size <= rows);
    const cases = sizes.flatMap((size) =>
      METHODS.map((method) => ({ size, method, rows: Math.min(rows, size * MOST_BATCHES) })),
    );
    const results = await measure(bench, cases, rounds);
    for (const result of results) await bench.record({ ...result });
    const [copies, inserts] = METHODS.map((method) => results.filter((result) => result.method === method));
    printTable(
      ['rows a batch', 'copy, rows/s', 'insert, rows/s', 'copy / insert'],
      (copies ?? []).map(({ size, rowsPerSecond, ms }, n) => [
        size,
        rowsPerSecond,
        inserts?.[n]?.rowsPerSecond ?? NaN,
        medianRatio(inserts?.[n]?.ms ?? [], ms),
      ]),
    );
    await bench.draw({
      title: 'Rows per second by batch size',
      x: { name: 'rows a batch', scale: 'log' },
      y: { name: 'rows/s', scale: 'log' },
      lines: [
        { name: 'COPY', points: (copies ?? []).map(pointOf) },
        { name: 'INSERT', points: (inserts ?? []).map(pointOf) },
      ],
    });
  });
}

async function measure(bench: Bench, cases: readonly Case[], rounds: number): Promise<Result[]> {
  const { sluice, client, schema } = bench;
  await sluice.admin.createQueue('bench');
  const producer = await sluice.producer('bench');
  const contenders = cases.map(({ size, method, rows }) => ({
    name: `${method} ${size}`,
    run: async () => {
      const started = performance.now();
      await pipeline(Readable.from(orders(rows)), producer.writable({ method, batchSize: size }));
      return performance.now() - started;
    },
  }));
  const measured = await interleave(rounds, contenders, async () => {
    await client.query(`truncate ${schema}.pgqrs_messages`);
    await client.query('checkpoint');
  });
  return cases.map((each, n) => {
    const ms = measured[n]?.ms ?? [];
    const rowsPerSecond = Math.round((each.rows / median(ms)) * 1_000);
    const msPerBatch = Number((median(ms) / Math.ceil(each.rows / each.size)).toFixed(2));
    return { ...each, rowsPerSecond, msPerBatch, ms };
  });
}

function pointOf({ size, rowsPerSecond }: Result): [x: number, y: number] {
  return [size, rowsPerSecond];
}
