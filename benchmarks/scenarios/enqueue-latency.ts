import type pg from 'pg';
import { bareInsert } from '../harness/bare-insert.js';
import { type Bench, withBench } from '../harness/bench.js';
import { orders } from '../harness/orders.js';
import { openPool } from '../harness/pool.js';
import { interleave, percentile } from '../harness/rounds.js';
import { printTable } from '../harness/table.js';

/** Calls in a row of one contender: few, so that noise hits all alike. */
const BLOCK = 50;
const WARM_UP_ROUNDS = 10;
/** The library's own default; one caller needs one. */
const POOL_SIZE = 16;

interface Caller {
  name: string;
  /** Whose median its own is compared with. */
  against: string;
  call: (order: object) => Promise<unknown>;
}

/** What does one caller, who awaits each call, pay for `enqueue` over an INSERT written by hand? */
export async function enqueueLatency({ rounds }: { rounds: number }): Promise<void> {
  await withBench('enqueue-latency', async (bench) => {
    const pool = openPool(bench.url, POOL_SIZE);
    try {
      const callers = await makeCallers(bench, pool);
      await timeCalls(callers, Math.min(rounds, WARM_UP_ROUNDS));
      await bench.client.query(`truncate ${bench.schema}.pgqrs_messages`);
      const results = summarise(callers, await timeCalls(callers, rounds));
      for (const result of results) await bench.record(result);
      printTable(
        ['one caller', 'p50, ms', 'p95, ms', 'p99, ms', 'p50 ratio', 'against'],
        results.map(({ name, p50Ms, p95Ms, p99Ms, ratio, against }) => [
          name,
          p50Ms,
          p95Ms,
          p99Ms,
          ratio,
          against,
        ]),
      );
    } finally {
      await pool.end();
    }
  });
}

async function makeCallers({ sluice, client, schema }: Bench, pool: pg.Pool): Promise<Caller[]> {
  const queue = await sluice.admin.createQueue('bench');
  const producer = await sluice.producer('bench');
  const insert = bareInsert(schema, queue.id, producer.workerId);
  const inTransaction = async (work: () => Promise<unknown>) => {
    await client.query('begin');
    await work();
    await client.query('commit');
  };
  const alone = 'INSERT, a client of its own';
  const within = 'begin, INSERT, commit';
  return [
    { name: alone, against: alone, call: (order) => insert(client, order) },
    { name: 'INSERT, pg.Pool', against: alone, call: (order) => insert(pool, order) },
    { name: 'producer.enqueue', against: alone, call: (order) => producer.enqueue(order) },
    { name: within, against: within, call: (order) => inTransaction(() => insert(client, order)) },
    {
      name: 'begin, producer.enqueue, commit',
      against: within,
      call: (order) => inTransaction(() => producer.enqueue(order, { client })),
    },
  ];
}

/** @returns the ms of each call, by caller */
async function timeCalls(callers: readonly Caller[], rounds: number): Promise<Map<string, number[]>> {
  const timed = new Map<string, number[]>(callers.map(({ name }) => [name, []]));
  const contenders = callers.map(({ name, call }) => ({
    name,
    run: async () => {
      const began = performance.now();
      for (const order of orders(BLOCK)) {
        const started = performance.now();
        await call(order);
        timed.get(name)?.push(performance.now() - started);
      }
      return performance.now() - began;
    },
  }));
  await interleave(rounds, contenders, () => Promise.resolve());
  return timed;
}

function summarise(callers: readonly Caller[], timed: ReadonlyMap<string, readonly number[]>) {
  const of = (name: string, share: number) => percentile(timed.get(name) ?? [], share);
  return callers.map(({ name, against }) => ({
    name,
    calls: timed.get(name)?.length ?? 0,
    p50Ms: rounded(of(name, 0.5)),
    p95Ms: rounded(of(name, 0.95)),
    p99Ms: rounded(of(name, 0.99)),
    against,
    ratio: rounded(of(name, 0.5) / of(against, 0.5)),
  }));
}

function rounded(value: number): number {
  return Number(value.toFixed(3));
}
