import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, onTestFinished, test } from 'vitest';
import { connect, type Producer } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { type Scenario, scenario } from '../support/scenario.js';
import { counted, numbers } from './support.js';

interface Item {
  n: number;
  key: string;
}

const keyed = (count: number): Item[] => numbers(count).map((n) => ({ n, key: `key ${n}` }));
const byKey = { dedupeKey: ({ key }: Item) => key };

/** A producer in a process of its own, as far as the server can tell. */
async function anotherProducer({ url, schema }: Scenario): Promise<Producer> {
  const sluice = await connect({ dsn: url, schema });
  onTestFinished(() => sluice.close());
  return sluice.producer('work');
}

/** Places of all keys in the queue, in ascending order: [0, 1, 2, …] says that each is in once. */
async function inside({ pool, schema }: Scenario): Promise<number[]> {
  const { rows } = await pool.query<{ n: number }>(
    `select (payload->>'n')::int as n from ${schema}.pgqrs_messages order by n`,
  );
  return rows.map(({ n }) => n);
}

/** How many backends wait for a lock in a statement of that name. */
async function waiting({ pool, schema }: Scenario, statement: string): Promise<number> {
  const { rows } = await pool.query<{ count: number }>(
    `select count(*)::int from pg_stat_activity
     where query like '/* sluice:' || $1 || ' */%' and query like '%' || $2 || '%' and wait_event_type = 'Lock'`,
    [statement, schema],
  );
  return rows[0]!.count;
}

function shuffled<T>(items: readonly T[], seed: number): T[] {
  const random = (n: number) => Math.imul(n + seed * 7_919, 2_654_435_761) >>> 0;
  return items
    .map((item, n) => ({ item, by: random(n) }))
    .sort((a, b) => a.by - b.by)
    .map(({ item }) => item);
}

test('two producers that want the same keys in opposite order wait for each other, and never for ever', async () => {
  const s = await scenario();
  const items = keyed(100);
  const producers = [await anotherProducer(s), await anotherProducer(s)];
  // A key in the middle is held, so that each would have half of them before it meets the other.
  const client = await s.pool.connect();
  await client.query('begin');
  await client.query(
    `insert into ${s.schema}.sluice_dedupe values ($1, 'key 50', now() + interval '1 day')`,
    [s.queue.id],
  );
  const streams = producers.map((producer) => producer.writable<Item>({ ...byKey, batchSize: 100 }));
  const loads = [items, [...items].reverse()].map((part, at) =>
    pipeline(Readable.from(part), streams[at] as NodeJS.WritableStream),
  );
  await eventually('both to wait for a key', async () => (await waiting(s, 'take_keys')) === 2);
  await client.query('rollback');
  client.release();
  await within(10_000, 'both loads', Promise.all(loads));
  const stats = streams.map((stream) => stream.stats);
  // The server would have ended a deadlock, and the one that lost would have been sent again.
  expect(stats.map(({ retries }) => retries)).toEqual([0, 0]);
  expect(stats.map(({ committed, duplicates }) => [committed, duplicates]).sort()).toEqual([
    [0, 100],
    [100, 0],
  ]);
  expect(await inside(s)).toEqual(numbers(100));
});

test('six producers at once with the same 3,000 keys, each in its own order: each key is in once', async () => {
  const s = await scenario();
  const items = keyed(3_000);
  const producers = await Promise.all(numbers(6).map(() => anotherProducer(s)));
  const summaries = await within(
    25_000,
    'six loads',
    Promise.all(
      producers.map((producer, seed) =>
        producer.ingest(shuffled(items, seed), { ...byKey, batchSize: 100 + seed }),
      ),
    ),
  );
  expect(await inside(s)).toEqual(numbers(3_000));
  expect(summaries.reduce((sum, { committed }) => sum + committed, 0)).toBe(3_000);
  for (const { accepted, committed, duplicates, retries } of summaries) {
    expect([accepted, committed + duplicates, retries]).toEqual([3_000, 3_000, 0]);
  }
});

test('with keys one batch is in flight, whatever the concurrency, while the next one fills', async () => {
  const s = await scenario();
  const client = await s.pool.connect();
  await client.query(`begin; lock ${s.schema}.pgqrs_messages in share mode`);
  const inTransaction = async () => {
    const { rows } = await s.pool.query<{ count: number }>(
      `select count(distinct pid)::int from pg_locks
       where locktype = 'relation' and relation = '${s.schema}.sluice_dedupe'::regclass`,
    );
    return rows[0]!.count;
  };
  const stream = (await s.producer()).writable<Item>({ ...byKey, batchSize: 10, concurrency: 4 });
  const loaded = pipeline(Readable.from(keyed(100)), stream);
  await eventually('the first batch to wait', async () => (await waiting(s, 'copy_messages')) === 1);
  await eventually('the next batch to be full', () => stream.stats.accepted === 20);
  expect([await inTransaction(), await waiting(s, 'copy_messages')]).toEqual([1, 1]);
  expect(stream.stats.accepted).toBe(20);
  await client.query('commit');
  client.release();
  await loaded;
  expect(await s.delivered()).toEqual(numbers(100));
});

test('a batch waits for a key that somebody holds, and takes it if they roll back', async () => {
  const s = await scenario();
  const client = await s.pool.connect();
  const stream = (await s.producer()).writable<Item>({ ...byKey, batchSize: 1 });
  const hold = (key: string) =>
    client.query(`insert into ${s.schema}.sluice_dedupe values ($1, $2, now() + interval '1 day')`, [
      s.queue.id,
      key,
    ]);
  for (const [n, outcome] of ['commit', 'rollback'].entries()) {
    await client.query('begin');
    await hold(`key ${n}`);
    stream.write({ n, key: `key ${n}` });
    await eventually('the batch to wait', async () => (await waiting(s, 'take_keys')) === 1);
    await client.query(outcome);
    await eventually('the batch', () => stream.stats.batches === n + 1);
  }
  client.release();
  expect(stream.stats).toMatchObject({ committed: 1, duplicates: 1, retries: 0 });
  expect(await inside(s)).toEqual([1]);
  stream.destroy();
});

test('a stream that is destroyed in the middle of a batch gives its keys back', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const client = await s.pool.connect();
  await client.query(`begin; lock ${s.schema}.pgqrs_messages in share mode`);
  const stream = producer.writable<Item>({ ...byKey, batchSize: 10 });
  const events = counted(stream);
  for (const item of keyed(10)) stream.write(item);
  await eventually('the batch to wait', async () => (await waiting(s, 'copy_messages')) === 1);
  stream.destroy();
  await eventually('the end', () => events.close === 1);
  await client.query('commit');
  client.release();
  expect(await producer.ingest(keyed(10), byKey)).toMatchObject({ committed: 10, duplicates: 0 });
});

test('under row-level security, where a batch is sent twice, its keys are still free the second time', async () => {
  const s = await scenario();
  const { pool, schema, url } = s;
  const role = `${schema}_role`;
  await pool.query(`
    create role ${role} login password 'role-pw';
    grant usage on schema ${schema} to ${role};
    grant all on all tables in schema ${schema} to ${role};
    grant usage on all sequences in schema ${schema} to ${role};
    alter table ${schema}.pgqrs_messages enable row level security;
    create policy all_in on ${schema}.pgqrs_messages for insert with check (true)`);
  const login = new URL(url);
  login.username = role;
  login.password = 'role-pw';
  const sluice = await connect({ dsn: login.href, schema });
  onTestFinished(async () => {
    await sluice.close();
    await pool.query(`drop owned by ${role}; drop role ${role}`);
  });
  const stream = (await sluice.producer('work')).writable<Item>({ ...byKey, batchSize: 10 });
  const methods = new Set<string>();
  stream.on('batch', ({ method }) => methods.add(method));
  await pipeline(Readable.from([...keyed(50), ...keyed(50)]), stream);
  expect([...methods]).toEqual(['insert']);
  expect(stream.stats).toMatchObject({ committed: 50, duplicates: 50, retries: 0 });
  expect(await s.delivered()).toEqual(numbers(50));
});
