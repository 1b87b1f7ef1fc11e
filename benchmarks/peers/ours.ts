import { createRequire } from 'node:module';
import type { Consumer } from 'pg-sluice';
import type { Bench } from '../harness/bench.js';
import { orders } from '../harness/orders.js';
import { type Contender, countBy, type Peer } from './peer.js';

/** What `run` gets for handlers that take no time. */
const RUN = { concurrency: 100 };
const BATCH = 2_000;
const LOOPS = 2;

/** Ours: `run`, and the same work by hand with the consumer's single calls. */
export async function ours({ sluice, client, schema }: Bench): Promise<Peer> {
  const { version } = createRequire(import.meta.url)('pg-sluice/package.json') as { version: string };
  await sluice.admin.createQueue('bench');
  const producer = await sluice.producer<object>('bench');
  const consumer = await sluice.consumer('bench');
  const empty = async () => {
    await client.query(`truncate ${schema}.pgqrs_messages`);
  };
  const tables = {
    fill: async (count: number) => {
      await empty();
      await producer.ingest(orders(count));
    },
    left: () => countBy(client, `select count(*) from ${schema}.pgqrs_messages where archived_at is null`),
    empty,
  };
  const contender = (name: string, consume: Contender['consume']) => ({ name, version, consume, ...tables });
  return {
    contenders: [
      contender('run, archive', (count) => byRun(consumer, 'archive', count)),
      contender('run, delete', (count) => byRun(consumer, 'delete', count)),
      contender('by hand, archive', () => byHand(consumer, 'archiveMany')),
      contender('by hand, delete', () => byHand(consumer, 'deleteMany')),
    ],
    close: () => consumer.close(),
  };
}

/** The last message ends it; it resolves when all is acknowledged. */
async function byRun(consumer: Consumer, onSuccess: 'archive' | 'delete', count: number): Promise<number> {
  const stop = new AbortController();
  let handled = 0;
  const handler = () => {
    if (++handled === count) stop.abort();
  };
  await consumer.run(handler, { ...RUN, onSuccess, signal: stop.signal });
  return handled;
}

async function byHand(consumer: Consumer, settle: 'archiveMany' | 'deleteMany'): Promise<number> {
  let handled = 0;
  const loop = async () => {
    for (;;) {
      const messages = await consumer.dequeueMany(BATCH);
      if (messages.length === 0) return;
      handled += messages.length;
      await consumer[settle](messages);
    }
  };
  await Promise.all(Array.from({ length: LOOPS }, loop));
  return handled;
}
