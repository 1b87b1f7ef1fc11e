import { expect, onTestFinished, test } from 'vitest';
import { connect, type Producer } from '../../src/index.js';
import { purgeKeys } from '../../src/sql/dedupe.js';
import { eventually, within } from '../support/eventually.js';
import { type Scenario, scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';

/** Puts keys there that end at `ends`, an SQL expression over `g`, the number of the key. */
const remember = ({ pool, schema, queue }: Scenario, count: number, ends: string) =>
  pool.query(
    `insert into ${schema}.sluice_dedupe
     select ${queue.id}, ${ends} || ' ' || g, ${ends} from generate_series(1, ${count}) g`,
  );

async function counts({ pool, schema }: Scenario): Promise<{ old: number; live: number }> {
  const { rows } = await pool.query<{ old: number; live: number }>(
    `select count(*) filter (where expires_at <= now())::int as old,
       count(*) filter (where expires_at > now())::int as live from ${schema}.sluice_dedupe`,
  );
  return rows[0]!;
}

const OLD = `now() - interval '1 second' * g`;
const LIVE = `now() + interval '1 minute' * g`;

const put = (producer: Producer, key: string) => producer.ingest([{ key }], { dedupeKey: () => key });

/** A Queryable over one client, perhaps in a transaction. */
const over = (
  schema: string,
  client: { query: (text: string, values: unknown[]) => Promise<{ rows: unknown[] }> },
) => ({
  schema: `"${schema}"`,
  query: async <Row>(text: string, values: readonly unknown[] = []) =>
    (await client.query(text, [...values])).rows as Row[],
});

test('whoever writes keys also deletes what is old, in chunks, and leaves what is live', async () => {
  const s = await scenario();
  await remember(s, 25_000, OLD);
  await remember(s, 1_000, LIVE);
  const { sluice, count } = await spied(s);
  const producer = await sluice.producer('work');
  await put(producer, 'new');
  await eventually('the old keys to go', async () => (await counts(s)).old === 0);
  expect(await counts(s)).toEqual({ old: 0, live: 1_001 });
  await eventually('the last chunk', () => count('purge_keys') >= 3);
  // Not again for a while.
  await put(producer, 'newer');
  await producer.close();
  expect(count('purge_keys')).toBe(3);
});

test('without keys nothing is purged', async () => {
  const s = await scenario();
  await remember(s, 10, OLD);
  const { sluice, count } = await spied(s);
  const producer = await sluice.producer('work');
  await producer.ingest([{ n: 1 }]);
  await producer.close();
  expect(count('purge_keys')).toBe(0);
});

test('close() waits for the chunk that is under way, and begins no other', async () => {
  const s = await scenario();
  await remember(s, 25_000, OLD);
  const { sluice, count, answered } = await spied(s);
  const producer = await sluice.producer('work');
  let goOn = () => {};
  const held = new Promise<void>((resolve) => (goOn = resolve));
  answered('purge_keys', () => held);
  await put(producer, 'new');
  await eventually('a purge', () => count('purge_keys') > 0);
  let closed = false;
  const closing = producer.close().then(() => (closed = true));
  await eventually('all else to be done', async () => {
    const { rows } = await s.pool.query<{ left: number }>(
      `select count(*)::int as left from ${s.schema}.sluice_streams`,
    );
    return rows[0]!.left === 0;
  });
  expect(closed).toBe(false);
  goOn();
  await within(5_000, 'closing', closing);
  expect(count('purge_keys')).toBe(1);
  expect((await counts(s)).old).toBe(15_000);
});

test('one process at a time purges; another that wants to passes on at once', async () => {
  const s = await scenario();
  await remember(s, 10, OLD);
  const [one, other] = [await s.pool.connect(), await s.pool.connect()];
  await one.query('begin');
  expect(await purgeKeys(over(s.schema, one), 3)).toBe(3);
  await other.query(`set lock_timeout = '2s'`);
  expect(await purgeKeys(over(s.schema, other), 100)).toBe(0);
  await one.query('commit');
  expect(await purgeKeys(over(s.schema, other), 100)).toBe(7);
  one.release();
  other.release(true);
});

test('a purge passes over keys that a batch is just taking again, and batches pass by a purge', async () => {
  const s = await scenario();
  await remember(s, 10, OLD);
  const [taker, purger] = [await s.pool.connect(), await s.pool.connect()];
  await taker.query('begin');
  await taker.query(
    `update ${s.schema}.sluice_dedupe set expires_at = now() + interval '1 day'
     where key = (select min(key) from ${s.schema}.sluice_dedupe)`,
  );
  await purger.query(`begin; set lock_timeout = '2s'`);
  expect(await purgeKeys(over(s.schema, purger), 100)).toBe(9);
  const summary = await within(5_000, 'a batch', put(await s.producer(), 'new'));
  expect(summary).toMatchObject({ committed: 1, retries: 0 });
  await purger.query('commit');
  await taker.query('commit');
  taker.release();
  purger.release(true);
  expect(await counts(s)).toEqual({ old: 0, live: 2 });
});

interface Plan {
  'Node Type': string;
  'Relation Name'?: string;
  'Index Name'?: string;
  'Shared Hit Blocks': number;
  'Shared Read Blocks': number;
  Plans?: Plan[];
}

const nodes = (plan: Plan): Plan[] => [plan, ...(plan.Plans ?? []).flatMap(nodes)];

test('among 200,000 keys, old ones between live ones, a purge reads what is old and no more', async () => {
  const s = await scenario();
  // As it is after some turns: new keys have the places of old ones, so every page holds some of each.
  await remember(s, 200_000, `now() + interval '1 minute' * (case g % 40 when 0 then -g else g end)`);
  await s.pool.query(`analyze ${s.schema}.sluice_dedupe`);
  const purge = async () => {
    let plan: Plan | undefined;
    const explained = {
      query: async (text: string, values: unknown[]) => {
        const { rows } = await s.pool.query<{ 'QUERY PLAN': [{ Plan: Plan }] }>(
          `explain (analyze, buffers, format json) ${text}`,
          values,
        );
        plan = rows[0]!['QUERY PLAN'][0].Plan;
        return { rows: [] };
      },
    };
    await purgeKeys(over(s.schema, explained), 10_000);
    return nodes(plan!);
  };
  const blocks = ([root]: Plan[]) => root!['Shared Hit Blocks'] + root!['Shared Read Blocks'];
  const plan = await purge();
  const scans = plan
    .filter((node) => node['Relation Name'] === 'sluice_dedupe')
    .map((node) => node['Node Type']);
  expect(scans.sort()).toEqual(['Index Scan', 'ModifyTable', 'Tid Scan']);
  expect(plan.map((node) => node['Index Name']).filter(Boolean)).toEqual(['sluice_dedupe_end']);
  expect(blocks(plan)).toBeLessThan(100_000);
  // A snapshot of another test may hold vacuum back for a while.
  await eventually('next to nothing to be read when nothing is old', async () => {
    await s.pool.query(`vacuum ${s.schema}.sluice_dedupe`);
    return blocks(await purge()) < 100;
  });
  expect(await counts(s)).toEqual({ old: 0, live: 195_000 });
});

test('a role that may not delete keys can still write them', async () => {
  const s = await scenario();
  const { pool, schema, url } = s;
  await remember(s, 10, OLD);
  const role = `${schema}_role`;
  await pool.query(`
    create role ${role} login password 'role-pw';
    grant usage on schema ${schema} to ${role};
    grant all on all tables in schema ${schema} to ${role};
    grant usage on all sequences in schema ${schema} to ${role};
    revoke delete on ${schema}.sluice_dedupe from ${role}`);
  const login = new URL(url);
  login.username = role;
  login.password = 'role-pw';
  const sluice = await connect({ dsn: login.href, schema });
  onTestFinished(async () => {
    await sluice.close();
    await pool.query(`drop owned by ${role}; drop role ${role}`);
  });
  const producer = await sluice.producer('work');
  expect(await put(producer, 'new')).toMatchObject({ committed: 1 });
  await producer.close();
  expect(await counts(s)).toEqual({ old: 10, live: 1 });
});
