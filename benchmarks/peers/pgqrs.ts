import type pg from 'pg';
import { orders } from '../harness/orders.js';
import { connected } from '../harness/plain-copy.js';
import { batches } from './batches.js';
import { countBy, type Peer, type Place } from './peer.js';
import { pgqrsSchema } from './pgqrs-schema.js';

const SCHEMA = 'bench_pgqrs';
const VERSION = '0.15.3';
const LOOPS = 2;
/** The best of earlier measurements, and a small one. */
const BATCHES = [5_000, 50];

const ENQUEUE = `
  insert into ${SCHEMA}.pgqrs_messages (queue_id, payload, read_ct, enqueued_at, vt, producer_worker_id)
  select $1, item, 0, now(), now(), $2 from unnest($3::jsonb[]) as item`;

const DEQUEUE = `
  update ${SCHEMA}.pgqrs_messages
  set vt = now() + make_interval(secs => 30), read_ct = read_ct + 1, dequeued_at = coalesce(dequeued_at, now()),
    consumer_worker_id = $3
  where id in (
    select id from ${SCHEMA}.pgqrs_messages
    where queue_id = $1 and (vt is null or vt <= now()) and consumer_worker_id is null and archived_at is null
      and read_ct < 5
    order by enqueued_at asc limit $2 for update skip locked)
  returning id, queue_id, payload, vt, enqueued_at, read_ct, dequeued_at, producer_worker_id, consumer_worker_id,
    archived_at`;

const ARCHIVE = `
  update ${SCHEMA}.pgqrs_messages set archived_at = now()
  where id = any($1) and consumer_worker_id = $2 and archived_at is null returning id`;

/**
 * pgqrs' tables with all their keys and indexes, and statements that do to them what its clients' dequeue and archive
 * of many do, by the server's clock. In Node: its own clients are Rust and Python.
 */
export async function pgqrs({ url, client }: Place): Promise<Peer> {
  await client.query(`drop schema if exists ${SCHEMA} cascade`);
  await client.query(pgqrsSchema(SCHEMA));
  const queueId = await countBy(
    client,
    `insert into ${SCHEMA}.pgqrs_queues (queue_name) values ('bench') returning id`,
  );
  const workerId = await countBy(
    client,
    `insert into ${SCHEMA}.pgqrs_workers (name, queue_id) values ('bench', ${queueId}) returning id`,
  );
  const clients = await connected(url, LOOPS);

  const empty = async () => {
    await client.query(`truncate ${SCHEMA}.pgqrs_messages cascade`);
  };
  const tables = {
    fill: async (count: number) => {
      await empty();
      for (const batch of batches(orders(count), 5_000)) {
        await client.query(ENQUEUE, [queueId, workerId, batch.map((order) => JSON.stringify(order))]);
      }
    },
    left: () => countBy(client, `select count(*) from ${SCHEMA}.pgqrs_messages where archived_at is null`),
    empty,
  };
  return {
    contenders: BATCHES.map((size) => ({
      name: `pgqrs' statements, batches of ${size.toLocaleString('en')}`,
      version: VERSION,
      ...tables,
      consume: async () => {
        const handled = await Promise.all(
          clients.map((each) => dequeueAndArchive(each, queueId, workerId, size)),
        );
        return handled.reduce((sum, one) => sum + one, 0);
      },
    })),
    close: async () => {
      await Promise.all(clients.map((each) => each.end()));
    },
  };
}

async function dequeueAndArchive(on: pg.Client, queueId: number, workerId: number, size: number) {
  for (let handled = 0; ;) {
    const { rows } = await on.query<{ id: string }>({
      name: 'dequeue',
      text: DEQUEUE,
      values: [queueId, size, workerId],
    });
    if (rows.length === 0) return handled;
    handled += rows.length;
    await on.query({ name: 'archive', text: ARCHIVE, values: [rows.map(({ id }) => id), workerId] });
  }
}
