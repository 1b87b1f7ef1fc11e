import type pg from 'pg';
import { bareInsert } from '../harness/bare-insert.js';
import { type Bench, withBench } from '../harness/bench.js';
import { orders } from '../harness/orders.js';
import { openPool } from '../harness/pool.js';
import { interleave, median, medianRatio } from '../harness/rounds.js';
import { printTable } from '../harness/table.js';

const CALLERS = 64;
/** The library's own default, and a connection for each caller. */
const POOL_SIZES = [16, CALLERS];
const WARM_UP_ROWS = 2_000;

type Call = (order: object) => Promise<unknown>;

/** One way of enqueueing, and what its runs took: milliseconds, and transactions that wrote. */
interface Way {
  name: string;
  call: Call;
  ms: number[];
  transactions: number;
}

/** What do many callers at once gain by sharing statements in `enqueue`, over INSERTs of their own? */
export async function enqueueConcurrent({ rows, rounds }: { rows: number; rounds: number }): Promise<void> {
  await withBench('enqueue-concurrent', async (bench) => {
    const pools = POOL_SIZES.map((max) => openPool(bench.url, max));
    try {
      const ways = await makeWays(bench, pools);
      for (const { call } of ways) await callAll(Math.min(rows, WARM_UP_ROWS), call);
      await measure(bench, ways, rows, rounds);
      const results = summarise(ways, rows);
      for (const result of results) await bench.record(result);
      printTable(
        [`${CALLERS} callers`, 'messages/s', 'enqueue against it', 'messages a transaction'],
        results.map(({ name, messagesPerSecond, enqueueAgainstIt, messagesPerTransaction }) => [
          name,
          messagesPerSecond,
          enqueueAgainstIt,
          messagesPerTransaction,
        ]),
      );
    } finally {
      await Promise.all(pools.map((pool) => pool.end()));
    }
  });
}

async function makeWays({ sluice, schema }: Bench, pools: readonly pg.Pool[]): Promise<Way[]> {
  const queue = await sluice.admin.createQueue('bench');
  const producer = await sluice.producer('bench');
  const insert = bareInsert(schema, queue.id, producer.workerId);
  const way = (name: string, call: Call): Way => ({ name, call, ms: [], transactions: 0 });
  return [
    way('producer.enqueue', (order) => producer.enqueue(order)),
    ...pools.map((pool) => way(`INSERT, pg.Pool of ${pool.options.max}`, (order) => insert(pool, order))),
  ];
}

async function measure(bench: Bench, ways: readonly Way[], rows: number, rounds: number): Promise<void> {
  const contenders = ways.map((way) => ({
    name: way.name,
    run: async () => {
      const before = await nextTransaction(bench);
      const started = performance.now();
      await callAll(rows, way.call);
      const ms = performance.now() - started;
      way.ms.push(ms);
      way.transactions += (await nextTransaction(bench)) - before;
      return ms;
    },
  }));
  await interleave(rounds, contenders, async () => {
    await bench.client.query(`truncate ${bench.schema}.pgqrs_messages`);
    await bench.client.query('checkpoint');
  });
}

/** Each caller takes the next order as soon as its last one is in. */
async function callAll(count: number, call: Call): Promise<void> {
  const source = orders(count);
  const caller = async () => {
    for (const order of source) await call(order);
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
}

/**
 * The number that the next writing transaction will get. Differences count them exactly and at once, which
 * pg_stat_database does not. Doorbells (NOTIFY) and heartbeats have numbers too.
 */
async function nextTransaction({ client }: Bench): Promise<number> {
  const { rows } = await client.query<{ next: string }>(
    'select pg_snapshot_xmax(pg_current_snapshot())::text as next',
  );
  return Number(rows[0]?.next);
}

function summarise(ways: readonly Way[], rows: number) {
  const ours = ways[0]?.ms ?? [];
  return ways.map(({ name, ms, transactions }) => ({
    name,
    callers: CALLERS,
    rows,
    messagesPerSecond: Math.round((rows / median(ms)) * 1_000),
    enqueueAgainstIt: Number(medianRatio(ms, ours).toFixed(2)),
    messagesPerTransaction: Number(((rows * ms.length) / transactions).toFixed(1)),
    ms,
  }));
}
