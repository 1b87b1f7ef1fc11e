import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, type Consumer } from 'pg-sluice';
import { type Bench, withBench } from '../harness/bench.js';
import { percentile } from '../harness/rounds.js';
import { serverClock } from '../harness/server-clock.js';
import { countStatements } from '../harness/statement-counter.js';
import { printTable } from '../harness/table.js';

const PER_SECOND = 100;
const IDLE_MESSAGES = 100;
const AN_HOUR = 3_600;
/** What a consumer does once when it starts is no part of its being idle. */
const SETTLING_MS = 1_000;

/** Takes messages until that many have come. */
type Receive = (consumer: Consumer, count: number, onReceipt: (id: string) => void) => Promise<void>;

/**
 * How late are delayed messages, and what does a consumer ask of the server while none is due? Each round is a second:
 * of 100 messages, and of idleness. With default options.
 */
export async function delayed({ rounds }: { rounds: number }): Promise<void> {
  await withBench('delayed', async (bench) => {
    const results = [
      await lateness(bench, 'messages', byMessages, rounds),
      await lateness(bench, 'run', byRun, rounds),
    ];
    for (const result of results) await bench.record(result);
    printTable(
      [`${rounds * PER_SECOND} messages over ${rounds} s`, 'p50, ms', 'p95, ms', 'p99, ms', 'max, ms'],
      results.map(({ name, p50Ms, p95Ms, p99Ms, maxMs }) => [name, p50Ms, p95Ms, p99Ms, maxMs]),
    );

    const idle = [
      await idleness(bench, 'messages, idle', byMessages, rounds),
      await idleness(bench, 'run, idle', byRun, rounds),
    ];
    for (const result of idle) await bench.record(result);
    printTable(
      [`${IDLE_MESSAGES} messages due in an hour`, 'statements', 'a second'],
      idle.map(({ name, statements, perSecond }) => [name, statements, perSecond]),
    );
  });
}

async function lateness(bench: Bench, name: string, receive: Receive, seconds: number) {
  const ms = await latenessOf(bench, name, receive, seconds * PER_SECOND);
  return {
    name,
    messages: ms.length,
    seconds,
    p50Ms: percentile(ms, 0.5),
    p95Ms: percentile(ms, 0.95),
    p99Ms: percentile(ms, 0.99),
    maxMs: Math.max(...ms),
  };
}

/** @returns for each message, ms from its due time to its receipt, both by the server's clock */
async function latenessOf(
  { sluice, client, schema }: Bench,
  queue: string,
  receive: Receive,
  count: number,
): Promise<number[]> {
  await sluice.admin.createQueue(queue);
  const producer = await sluice.producer(queue);
  const consumer = await sluice.consumer(queue);
  const payloads = Array.from({ length: count }, (_, n) => ({ n }));
  const messages = await producer.batchEnqueue(payloads, { delaySeconds: AN_HOUR });

  // Delays are whole seconds; a time can be any millisecond. The first comes when all have been given theirs.
  const now = await serverClock(client);
  const start = now() + 1_000 + count;
  const dueAt = (n: number) => ({ at: new Date(start + (n * 1_000) / PER_SECOND) });
  await Promise.all(messages.map(({ id }, n) => producer.reschedule(id, dueAt(n))));
  const { rows } = await client.query<{ id: string; ms: number }>(
    `select id::text, (extract(epoch from vt) * 1000)::float8 as ms from ${schema}.pgqrs_messages`,
  );
  const due = new Map(rows.map(({ id, ms }) => [id, ms]));

  const lateMs: number[] = [];
  await receive(consumer, count, (id) => lateMs.push(now() - (due.get(id) ?? NaN)));
  await consumer.close();
  return lateMs;
}

const byMessages: Receive = async (consumer, count, onReceipt) => {
  let received = 0;
  for await (const message of consumer.messages()) {
    onReceipt(message.id);
    await message.archive();
    if (++received === count) return;
  }
};

const byRun: Receive = async (consumer, count, onReceipt) => {
  const stop = new AbortController();
  let received = 0;
  const handler = ({ id }: { id: string }) => {
    onReceipt(id);
    if (++received === count) stop.abort();
  };
  await consumer.run(handler, { signal: stop.signal });
};

/** What all connections of a consumer send while it waits for messages that are far off. */
async function idleness({ sluice, url, schema }: Bench, name: string, receive: Receive, seconds: number) {
  await sluice.admin.createQueue(name);
  const producer = await sluice.producer(name);
  const payloads = Array.from({ length: IDLE_MESSAGES }, (_, n) => ({ n }));
  await producer.batchEnqueue(payloads, { delaySeconds: AN_HOUR });

  const counter = await countStatements(url);
  try {
    await using waiting = await connect({ dsn: counter.url, schema });
    const consumer = await waiting.consumer(name);
    const listening = once(consumer, 'listening');
    let received = 0;
    const receiving = receive(consumer, IDLE_MESSAGES, () => received++);
    await listening;
    await sleep(SETTLING_MS);
    const before = counter.count();
    await sleep(seconds * 1_000);
    const statements = counter.count() - before;
    await consumer.close();
    await receiving;
    if (received > 0) throw new Error(`${name}: ${received} messages came an hour early`);
    return { name, seconds, statements, perSecond: Number((statements / seconds).toFixed(2)) };
  } finally {
    counter.close();
  }
}
