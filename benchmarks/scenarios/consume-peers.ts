import { type Bench, withBench } from '../harness/bench.js';
import { interleave, type Measured, median, medianRatio } from '../harness/rounds.js';
import { printTable } from '../harness/table.js';
import { graphileWorker } from '../peers/graphile-worker.js';
import { ours } from '../peers/ours.js';
import type { Contender } from '../peers/peer.js';
import { pgBoss } from '../peers/pg-boss.js';
import { pgqrs } from '../peers/pgqrs.js';

/** The first of ours, archiving and deleting: what all are compared with. */
const BASELINES = 2;

/** A contender, with what its runs took of this process. */
interface Entry extends Contender {
  cpuMs: number[];
}

/** How fast does one process work off a backlog, with a handler that does nothing, beside other queues on PostgreSQL? */
export async function consumePeers({ rows, rounds }: { rows: number; rounds: number }): Promise<void> {
  await withBench('consume-peers', async (bench) => {
    const candidates = [
      await ours(bench),
      await graphileWorker(bench),
      await pgBoss(bench),
      await pgqrs(bench),
    ];
    const peers = candidates.filter((peer) => peer !== undefined);
    try {
      const entries = peers
        .flatMap(({ contenders }) => contenders)
        .map((contender): Entry => ({ ...contender, cpuMs: [] }));
      const measured = await interleave(
        rounds,
        entries.map((entry) => ({ name: entry.name, run: () => consumeOnce(bench, entry, rows) })),
        () => Promise.resolve(),
      );
      const results = summarise(entries, measured, rows);
      for (const result of results) await bench.record(result);
      print(results, rows);
    } finally {
      for (const peer of peers) await peer.close();
    }
  });
}

/** Fills outside of the time that counts, and makes sure that everything was consumed. */
async function consumeOnce({ client }: Bench, entry: Entry, count: number): Promise<number> {
  const { name, fill, consume, left, empty } = entry;
  await fill(count);
  await client.query('analyze');
  await client.query('checkpoint');
  const cpu = process.cpuUsage();
  const started = performance.now();
  const handled = await consume(count);
  const ms = performance.now() - started;
  const { user, system } = process.cpuUsage(cpu);
  entry.cpuMs.push((user + system) / 1_000);
  const unsettled = await left();
  if (handled !== count || unsettled !== 0) {
    throw new Error(`${name}: ${handled} of ${count} handled, ${unsettled} left`);
  }
  await empty();
  return ms;
}

function summarise(entries: readonly Entry[], measured: readonly Measured[], rows: number) {
  const baselines = measured.slice(0, BASELINES);
  return measured.map(({ name, ms }, n) => ({
    name,
    version: entries[n]?.version ?? '',
    rows,
    messagesPerSecond: Math.round((rows / median(ms)) * 1_000),
    /** How many times as fast ours is. */
    oursAgainstIt: Object.fromEntries(
      baselines.map((ours) => [ours.name, Number(medianRatio(ms, ours.ms).toFixed(2))]),
    ),
    cpuMicrosPerMessage: Number(((median(entries[n]?.cpuMs ?? []) / rows) * 1_000).toFixed(1)),
    ms: ms.map(Math.round),
  }));
}

function print(results: ReturnType<typeof summarise>, rows: number): void {
  const baselines = results.slice(0, BASELINES);
  printTable(
    [
      `${rows.toLocaleString('en')} messages`,
      'release',
      'messages/s',
      'CPU of the process, µs a message',
      ...baselines.map(({ name }) => `${name}, against it`),
    ],
    results.map(({ name, version, messagesPerSecond, cpuMicrosPerMessage, oursAgainstIt }) => [
      name,
      version,
      messagesPerSecond,
      cpuMicrosPerMessage,
      ...Object.values(oursAgainstIt),
    ]),
  );
}
