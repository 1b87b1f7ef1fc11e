import type { WritableOptions } from 'pg-sluice';
import { type Bench, withBench } from '../harness/bench.js';
import { orders } from '../harness/orders.js';
import { interleave, median, medianRatio } from '../harness/rounds.js';
import { printTable } from '../harness/table.js';

/** An item that is its own JSON and has its key beside it. */
interface Keyed {
  id: number;
}

const DEFAULTS = 'no keys, 2 in flight (the default)';
const ONE_IN_FLIGHT = 'no keys, 1 in flight';

/** What does it cost a load that its items are let in only once by key, where all are new and where half are not? */
export async function dedupe({ rows, rounds }: { rows: number; rounds: number }): Promise<void> {
  await withBench('dedupe', async (bench) => {
    const contenders = await makeContenders(bench, rows);
    const measured = await interleave(rounds, contenders, async () => {
      await bench.client.query(`truncate ${bench.schema}.pgqrs_messages, ${bench.schema}.sluice_dedupe`);
      await bench.client.query('checkpoint');
    });
    const msOf = (wanted: string) => measured.find(({ name }) => name === wanted)?.ms ?? [];
    const results = measured.map(({ name, ms }) => ({
      name,
      rows,
      rounds,
      itemsPerSecond: Math.round((rows / median(ms)) * 1_000),
      // Of time: how many times as many items a second as without keys.
      ratio: Number(medianRatio(msOf(DEFAULTS), ms).toFixed(2)),
      ratioOneInFlight: Number(medianRatio(msOf(ONE_IN_FLIGHT), ms).toFixed(2)),
    }));
    for (const result of results) await bench.record(result);
    printTable(
      [`${rows.toLocaleString('en')} items`, 'items/s', 'against no keys', 'against 1 in flight'],
      results.map(({ name, itemsPerSecond, ratio, ratioOneInFlight }) => [
        name,
        itemsPerSecond.toLocaleString('en'),
        ratio,
        ratioOneInFlight,
      ]),
    );
  });
}

async function makeContenders({ sluice }: Bench, rows: number) {
  await sluice.admin.createQueue('bench');
  const producer = await sluice.producer<object>('bench');
  const load = (name: string, expected: number, options: WritableOptions<object>) => ({
    name,
    run: async () => {
      const started = performance.now();
      const { committed } = await producer.ingest(orders(rows), options);
      const ms = performance.now() - started;
      if (committed !== expected) throw new Error(`${name}: ${committed} rows, not ${expected}`);
      return ms;
    },
  });
  const half = Math.ceil(rows / 2);
  return [
    load(DEFAULTS, rows, {}),
    load(ONE_IN_FLIGHT, rows, { concurrency: 1 }),
    load('all keys new', rows, { dedupeKey: (order) => keyOf((order as Keyed).id) }),
    load('each key twice, in one batch', half, { dedupeKey: (order) => keyOf((order as Keyed).id >> 1) }),
    load('each key twice, far apart', half, { dedupeKey: (order) => keyOf((order as Keyed).id % half) }),
  ];
}

/** Like a UUID of the source: keys that come in no order are what costs most. */
function keyOf(n: number): string {
  const mixed = [1, 2, 3, 4].map((part) => Math.imul(n + part * 40_503, 2_654_435_761) >>> 0);
  return mixed.map((part) => part.toString(16).padStart(8, '0')).join('-');
}
