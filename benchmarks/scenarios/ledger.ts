import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { withBench } from '../harness/bench.js';
import { orders } from '../harness/orders.js';
import { connected, plainCopy } from '../harness/plain-copy.js';
import { type Contender, interleave, median, medianRatio } from '../harness/rounds.js';
import { printTable } from '../harness/table.js';

const BATCH_SIZE = 5_000;

/** What do the ledger, the order and the pinned references cost, against plain autocommitted COPY of the same bytes? */
export async function ledger({ rows, rounds }: { rows: number; rounds: number }): Promise<void> {
  await withBench('ledger', async ({ url, sluice, client, schema, record }) => {
    const queue = await sluice.admin.createQueue('bench');
    const producer = await sluice.producer('bench');
    const clients = await connected(url, 2);
    const into = { schema, queueId: queue.id, workerId: producer.workerId };
    const plain = (inFlight: number): Contender => ({
      name: `plain COPY, ${inFlight} in flight`,
      run: () => timed(() => plainCopy(clients.slice(0, inFlight), into, orders(rows), BATCH_SIZE)),
    });
    const ours = (concurrency: number): Contender => ({
      name: `producer.writable, ${concurrency} in flight`,
      run: () =>
        timed(() =>
          pipeline(Readable.from(orders(rows)), producer.writable({ batchSize: BATCH_SIZE, concurrency })),
        ),
    });
    try {
      const measured = await interleave(rounds, [plain(2), ours(2), plain(1), ours(1)], async () => {
        await client.query(`truncate ${schema}.pgqrs_messages`);
        await client.query('checkpoint');
      });
      const lines = measured.map(({ name, ms }, at) => {
        const against = measured[at - (at % 2)];
        return {
          name,
          rowsPerSecond: Math.round((rows / median(ms)) * 1_000),
          speed: 1 / medianRatio(ms, against?.ms ?? ms),
          against: against?.name ?? name,
          ms,
        };
      });
      printTable(
        ['batches of 5,000', 'rows/s', 'speed', 'against'],
        lines.map(({ name, rowsPerSecond, speed, against }) => [name, rowsPerSecond, speed, against]),
      );
      for (const line of lines) await record({ rows, ...line });
    } finally {
      await Promise.all(clients.map((each) => each.end()));
    }
  });
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}
