import { setTimeout as sleep } from 'node:timers/promises';
import { type Bench, withBench } from '../harness/bench.js';
import { median } from '../harness/rounds.js';
import { printTable } from '../harness/table.js';

const TRICKLE_MS = 8_000;
/** Between two messages of the trickle. */
const PAUSE_MS = 25;
/** A queue that is worked off more slowly than that by one process is one that stalls. */
const LIMIT_MS = 120_000;

/**
 * What does a warm consumer do in the second after a burst? A fresh installation, 8 s of a trickle, and then that many
 * messages by one statement.
 */
export async function burst({ rows, rounds }: { rows: number; rounds: number }): Promise<void> {
  await withBench('burst', async (bench) => {
    const results = [];
    for (const onSuccess of ['archive', 'delete'] as const) {
      const all = [];
      for (let round = 0; round < rounds; round++) {
        const rates = await perSecond(bench, onSuccess, rows);
        await bench.record({ name: onSuccess, messages: rows, round, rates });
        all.push(rates);
      }
      results.push({ onSuccess, all });
    }
    printTable(
      [
        `${rows.toLocaleString('en')} messages at once`,
        'first second, messages',
        'later seconds, messages',
        'first / later',
        'seconds',
      ],
      results.map(({ onSuccess, all }) => {
        const first = median(all.map((rates) => rates[0] ?? NaN));
        const later = median(all.map(steady));
        const ratio = median(all.map((rates) => (rates[0] ?? NaN) / steady(rates)));
        return [onSuccess, first, later, Number(ratio.toFixed(2)), median(all.map(({ length }) => length))];
      }),
    );
  });
}

/** The first second is compared with those after it; the last one is not whole. */
function steady(rates: readonly number[]): number {
  return median(rates.length > 2 ? rates.slice(1, -1) : rates);
}

/** @returns how many messages were handled in each second since the burst was committed, until none was left */
async function perSecond(
  { sluice, client, schema }: Bench,
  onSuccess: 'archive' | 'delete',
  rows: number,
): Promise<number[]> {
  await sluice.admin.uninstall();
  await sluice.admin.install();
  const { id } = await sluice.admin.createQueue('burst');
  const producer = await sluice.producer('burst');
  const consumer = await sluice.consumer('burst');
  const stop = new AbortController();
  const rates: number[] = [];
  let handled = 0;
  let burstAt = Infinity;
  const running = consumer.run(
    () => {
      const sinceMs = performance.now() - burstAt;
      if (sinceMs < 0) return;
      const second = Math.floor(sinceMs / 1_000);
      while (rates.length <= second) rates.push(0);
      rates[second] = (rates[second] ?? 0) + 1;
      handled++;
    },
    { onSuccess, signal: stop.signal },
  );

  const until = performance.now() + TRICKLE_MS;
  while (performance.now() < until) {
    await producer.enqueue({ trickle: true });
    await sleep(PAUSE_MS);
  }
  await client.query(
    `insert into ${schema}.pgqrs_messages (queue_id, origin, payload)
     select $1, 1, jsonb_build_object('order', g, 'customer', 'customer ' || g, 'note', repeat('some text ', 10))
     from generate_series(1, $2::int) g`,
    [id, rows],
  );
  burstAt = performance.now();
  await producer.enqueue({ wake: true });
  for (const until = burstAt + LIMIT_MS; handled < rows && performance.now() < until;) await sleep(20);
  stop.abort();
  await running;
  await consumer.close();
  await producer.close();
  return rates;
}
