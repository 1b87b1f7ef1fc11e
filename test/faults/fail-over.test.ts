import { once } from 'node:events';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, onTestFinished, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { connect, type ConfigOptions, StreamRegressedError } from '../../src/index.js';
import { numbers } from '../ingest/support.js';
import { startChild } from '../support/child-process.js';
import { eventually, within } from '../support/eventually.js';
import { startProxy } from '../support/proxy.js';
import { dsnOf, type Node, promote, startPrimary, startReplica } from '../support/replica.js';
import { numbered } from '../support/scenario.js';

const ROWS = 100_000;
const FEWER_ROWS = 40_000;
const SCHEMA = 'fail_over';
/** Of the batches in a load, so that there are some in flight at every moment. */
const BATCH = { batchSize: 500 };

test('a primary is killed and its synchronous replica promoted: the load goes on, nothing is lost, nothing doubled', async ({
  annotate,
}) => {
  const [a, b] = await pair({ synchronous: true });
  const { sluice, producer } = await connected(dsnOf(a, b));
  const consumer = await sluice.consumer('heard', { pollIntervalMs: 60_000 });
  const heard = (async () => {
    for await (const { payload } of consumer.messages<string>()) return payload;
    return undefined;
  })();
  await within(10_000, 'LISTEN', once(consumer, 'listening'));

  const stream = producer.writable(BATCH);
  const { rows, goOn } = gated(ROWS);
  const loaded = pipeline(rows, stream);
  await eventually('a part of the load', () => stream.stats.committed > ROWS / 4, 30_000);
  const listening = once(consumer, 'listening');
  await a.kill();
  const waiting = sluice.admin.listQueues();
  await promote(b);
  const promoted = performance.now();
  await within(15_000, 'the next batch', once(stream, 'batch'));
  const back = performance.now() - promoted;
  goOn();
  await within(30_000, 'the load', loaded);
  await annotate(`fail-over: ${Math.round(back)} ms from the promotion to the next commit`);
  expect(back).toBeLessThan(5_000);
  expect(stream.stats.committed).toBe(ROWS);
  expect(await loadedOn(b)).toEqual(numbers(ROWS));
  expect(await within(5_000, 'a query from before', waiting)).toHaveLength(2);

  await within(15_000, 'LISTEN on the new primary', listening);
  await (await sluice.producer('heard')).enqueue('after');
  expect(await within(5_000, 'the message', heard)).toBe('after');

  // The old primary comes back, beside the new one: nobody writes to it, whether they know of the other or not.
  await a.start({ synchronous_standby_names: '' });
  expect(await a.query('select pg_is_in_recovery() as standby')).toEqual([{ standby: false }]);
  const before = await written(a);
  const { sluice: another } = await connected(dsnOf(a, b));
  for (const { admin } of [sluice, another]) {
    const ports = await admin.pool.query<{ port: string }>(`select current_setting('port') as port`);
    expect(ports.rows).toEqual([{ port: String(b.port) }]);
  }
  await producer.batchEnqueue(Array.from({ length: 10 }, (_, old) => ({ old })));
  const child = startChild('child-newcomer.ts', dsnOf(a, b), SCHEMA, 'work', '10');
  expect(await child.next()).toBe('enqueued');
  expect(await written(a)).toEqual(before);
  const [{ count }] = (await b.query<{ count: number }>(
    `select count(*)::int from ${SCHEMA}.pgqrs_messages where payload ? 'old' or payload ? 'child'`,
  )) as [{ count: number }];
  expect(count).toBe(20);
});

test('a replica that lags is promoted: the stream says where to go on, and from there nothing is lost or doubled', async () => {
  const [a, b] = await pair();
  const { producer } = await connected(dsnOf(a, b));
  const stream = producer.writable(BATCH);
  const { rows } = gated(ROWS);
  const loaded = pipeline(rows, stream).catch((error: unknown) => error);
  await eventually('a part of the load', () => stream.stats.committed > ROWS / 8, 30_000);
  await eventually('some of it on the replica', async () => (await loadedOn(b)).length > 0);
  await b.query(`alter system set primary_conninfo = ''`);
  await b.query('select pg_reload_conf()');
  await eventually('nothing is received any more', async () => {
    return (await b.query('select from pg_stat_wal_receiver')).length === 0;
  });
  const replicated = (await loadedOn(b)).length;
  await eventually('more of it', () => stream.stats.committed > replicated + 10_000, 30_000);
  const { committed } = stream.stats;
  await a.kill();
  await promote(b);

  const error = await within(30_000, 'the failure', loaded);
  expect(error).toBeInstanceOf(StreamRegressedError);
  const position = Number((error as StreamRegressedError).position);
  expect(position).toBeLessThan(committed);
  expect(await loadedOn(b)).toEqual(numbers(position));
  await pipeline(Readable.from(numbered(ROWS - position, position)), producer.writable());
  expect(await loadedOn(b)).toEqual(numbers(ROWS));
});

test('a primary that has gone silent is left as soon as another host has been promoted', async ({
  annotate,
}) => {
  const [a, b] = await pair({ synchronous: true });
  const proxy = await startProxy(a.url);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  const { producer } = await connected(dsnOf(proxy, b), { heartbeatIntervalSeconds: 1 });
  const stream = producer.writable(BATCH);
  const { rows, goOn } = gated(FEWER_ROWS);
  const loaded = pipeline(rows, stream);
  await eventually('a part of the load', () => stream.stats.committed > FEWER_ROWS / 4, 30_000);
  proxy.door = 'hole';
  for (const link of proxy.links) link.hole();
  await promote(b);
  const promoted = performance.now();
  await within(25_000, 'the next batch', once(stream, 'batch'));
  await annotate(
    `silent primary: ${Math.round(performance.now() - promoted)} ms from the promotion to the next commit`,
  );
  goOn();
  await within(30_000, 'the load', loaded);
  expect(await loadedOn(b)).toEqual(numbers(FEWER_ROWS));
});

async function pair({ synchronous = false } = {}): Promise<[a: Node, b: Node]> {
  const a = await startPrimary();
  const b = await startReplica(a, 'b');
  if (synchronous) {
    await a.query(`alter system set synchronous_standby_names = 'b'`);
    await a.query('select pg_reload_conf()');
    await eventually('the replica counts', async () => {
      return (await a.query(`select from pg_stat_replication where sync_state = 'sync'`)).length === 1;
    });
  }
  return [a, b];
}

async function connected(dsn: string, settings: Omit<ConfigOptions, 'dsn'> = {}) {
  const sluice = await connect({ dsn, schema: SCHEMA, ...settings });
  onTestFinished(() => within(10_000, 'close()', sluice.close()).catch(() => undefined));
  await sluice.admin.install();
  for (const name of ['work', 'heard']) await sluice.admin.createQueue(name, { ifExists: 'open' });
  return { sluice, producer: await sluice.producer('work') };
}

/** Rows of which the last part waits, however fast the machine is: what happens before `goOn` happens during the load. */
function gated(count: number): { rows: Readable; goOn: () => void } {
  const gate = deferred();
  const rows = Readable.from(
    (async function* () {
      const first = Math.floor(count * 0.8);
      yield* numbered(first);
      await gate.promise;
      yield* numbered(count - first, first);
    })(),
  );
  return { rows, goOn: gate.resolve };
}

async function loadedOn(node: Node): Promise<number[]> {
  const rows = await node.query<{ n: number }>(
    `select (payload->>'n')::int as n from ${SCHEMA}.pgqrs_messages where payload ? 'n' order by vt, id`,
  );
  return rows.map(({ n }) => n);
}

/** What there is on a server, of messages and workers: it changes with whatever is written. */
async function written(node: Node): Promise<unknown> {
  return node.query(
    `select (select count(*) from ${SCHEMA}.pgqrs_messages) as messages, array_agg(to_jsonb(w) order by id) as workers
     from ${SCHEMA}.pgqrs_workers w`,
  );
}
