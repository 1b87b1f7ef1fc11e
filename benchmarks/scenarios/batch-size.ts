import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { withBench } from '../harness/bench.js';
import { orders } from '../harness/orders.js';
import { interleave, median } from '../harness/rounds.js';

const SIZES = [1, 10, 25, 50, 100, 200, 500, 1_000, 5_000, 20_000];

/** Which batch size, with which method, and from which size on is COPY faster than INSERT (the switch of `auto`)? */
export async function batchSize({ rows, rounds }: { rows: number; rounds: number }): Promise<void> {
  await withBench('batch-size', async ({ sluice, client, schema, record }) => {
    await sluice.admin.createQueue('bench');
    const producer = await sluice.producer('bench');
    for (const size of SIZES) {
      // Small batches are slow: fewer of them say as much.
      const count = Math.min(rows, size * 400);
      const measured = await interleave(
        rounds,
        (['copy', 'insert'] as const).map((method) => ({
          name: method,
          run: async () => {
            const started = performance.now();
            await pipeline(Readable.from(orders(count)), producer.writable({ method, batchSize: size }));
            return performance.now() - started;
          },
        })),
        async () => {
          await client.query(`truncate ${schema}.pgqrs_messages`);
        },
      );
      for (const { name, ms } of measured) {
        const rowsPerSecond = Math.round((count / median(ms)) * 1_000);
        const msPerBatch = Number((median(ms) / Math.ceil(count / size)).toFixed(2));
        console.log(
          `batch ${String(size).padStart(6)}  ${name.padEnd(6)} ${String(rowsPerSecond).padStart(8)} rows/s  ${msPerBatch} ms a batch`,
        );
        await record({ size, method: name, rows: count, rowsPerSecond, msPerBatch, ms });
      }
    }
  });
}
