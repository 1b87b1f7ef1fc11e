import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { WritableOptions } from 'pg-sluice';
import { type Bench, withBench } from '../harness/bench.js';
import { orders } from '../harness/orders.js';
import { type Contender, interleave, median } from '../harness/rounds.js';

/**
 * How fast is the whole path (objects, JSON, batches, ledger, order, pinned rows) against `psql \copy` of rows that
 * are serialised already, into the same table with the same indexes and triggers?
 */
export async function ingest({ rows, rounds }: { rows: number; rounds: number }): Promise<void> {
  await withBench('ingest', async (bench) => {
    const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-'));
    try {
      await compare(bench, rows, rounds, join(folder, 'rows.copy'));
    } finally {
      await rm(folder, { recursive: true });
    }
  });
}

async function compare(bench: Bench, rows: number, rounds: number, file: string): Promise<void> {
  const { sluice, client, schema } = bench;
  const queue = await sluice.admin.createQueue('bench');
  const producer = await sluice.producer('bench');
  await writeRows(file, rows, queue.id, producer.workerId);

  const ours = (name: string, options: WritableOptions<object>): Contender => ({
    name,
    run: () =>
      timed(async () => {
        await pipeline(Readable.from(orders(rows)), producer.writable(options));
      }),
  });
  const contenders: Contender[] = [
    ...(spawnSync('psql', ['--version']).status === 0
      ? [{ name: 'psql \\copy', run: () => psqlCopy(bench, file) }]
      : []),
    ours('sluice copy 5000 x 2', { method: 'copy', batchSize: 5_000, concurrency: 2 }),
    ours('sluice copy 5000 x 1', { method: 'copy', batchSize: 5_000, concurrency: 1 }),
    ours('sluice insert 5000 x 2', { method: 'insert', batchSize: 5_000, concurrency: 2 }),
  ];
  const measured = await interleave(rounds, contenders, async () => {
    await client.query(`truncate ${schema}.pgqrs_messages`);
    await client.query('checkpoint');
  });
  const reference = median(measured[0]?.ms ?? []);
  for (const { name, ms } of measured) {
    const rowsPerSecond = Math.round((rows / median(ms)) * 1_000);
    const ratio = Number((reference / median(ms)).toFixed(2));
    console.log(
      `${name.padEnd(26)} ${String(rowsPerSecond).padStart(8)} rows/s   ${ratio.toFixed(2)} x ${measured[0]?.name}`,
    );
    await bench.record({ name, rows, rowsPerSecond, ratio, against: measured[0]?.name, ms });
  }
}

async function psqlCopy({ url, schema }: Bench, file: string): Promise<number> {
  const command = `\\copy ${schema}.pgqrs_messages (queue_id, payload, producer_worker_id, origin) from '${file}'`;
  return timed(async () => {
    const psql = spawn('psql', [url, '-q', '-v', 'ON_ERROR_STOP=1', '-c', command], { stdio: 'inherit' });
    const [code] = (await once(psql, 'exit')) as [number];
    if (code !== 0) throw new Error(`psql ended with code ${code}`);
  });
}

async function writeRows(file: string, rows: number, queueId: string, workerId: string): Promise<void> {
  const lines = function* () {
    for (const order of orders(rows)) {
      yield `${queueId}\t${JSON.stringify(order).replaceAll('\\', '\\\\')}\t${workerId}\t1\n`;
    }
  };
  await writeFile(file, lines());
}

async function timed(work: () => Promise<void>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}
