import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { blocked, failureOf, lockMessages, onInsert, order, watched } from '../enqueue/support.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';

const QUICK = { retryBaseMs: 1, retryMaxMs: 20 };
const numbers = (count: number) => Array.from({ length: count }, (_, n) => n);

async function seen({ pool, schema }: Scenario): Promise<number> {
  const { rows } = await pool.query<{ n: number }>(`select last_value::int as n from ${schema}.rows_seen`);
  return rows[0]!.n;
}

test.each(['40001', '40P01', '55P03', '57014', '53200'])(
  'a statement that the server answers once with %s is tried again, and its messages are in once and in order',
  async (state) => {
    const s = await scenario();
    await onInsert(s, `if nth in (5, 30) then raise exception 'not now' using errcode = '${state}'; end if;`);
    const { sluice, count, forget } = await watched(s);
    const producer = await sluice.producer('work', QUICK);
    forget();
    const messages = await Promise.all(numbers(20).map((n) => producer.enqueue({ n })));
    expect(count('enqueue')).toBe(2);
    expect(messages.map(({ payload }) => payload)).toEqual(numbers(20).map((n) => ({ n })));
    await producer.batchEnqueue(numbers(10).map((n) => ({ n: 20 + n })));
    expect(count('enqueue')).toBe(4);
    expect(await order(s)).toEqual(numbers(30));
  },
);

test('a reason that does not pass is given up after `retries`, and the producer goes on', async () => {
  const s = await scenario();
  await onInsert(
    s,
    `if new.payload ? 'never' then raise exception 'not now' using errcode = '40001'; end if;`,
  );
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work', { ...QUICK, retries: 4 });
  forget();
  expect(await failureOf(producer.enqueue({ never: 1 }))).toMatchObject({
    sqlState: '40001',
    transient: true,
  });
  expect(count('enqueue')).toBe(5);
  const patient = await sluice.producer('work', { ...QUICK, retries: 0 });
  forget();
  expect(await failureOf(patient.batchEnqueue([{ never: 1 }, { n: 1 }]))).toMatchObject({
    sqlState: '40001',
  });
  expect(count('enqueue')).toBe(1);
  await producer.enqueue({ n: 0 });
  expect(await order(s)).toEqual([0]);
});

test('a failure that comes with the commit, after the answer with the ids, is a failure', async () => {
  const s = await scenario();
  await onInsert(
    s,
    `if nth = 1 then raise exception 'not now' using errcode = '40001'; end if;`,
    'constraint trigger of_the_test after insert',
  );
  const producer = await s.producer(QUICK);
  const { id } = await producer.enqueue({ n: 0 });
  expect(await seen(s)).toBe(2);
  const { rows } = await s.pool.query<{ id: string }>(`select id::text from ${s.schema}.pgqrs_messages`);
  expect(rows).toEqual([{ id }]);
});

test('a real deadlock with somebody else is survived', async () => {
  const s = await scenario();
  // The producer's row waits for a lock that another holds, who then waits for a row that the producer has.
  await onInsert(s, `update {s}.pgqrs_queues set created_at = created_at where queue_name = 'other';`);
  await s.sluice.admin.createQueue('other');
  const producer = await s.producer(QUICK);
  const other = new pg.Client({ connectionString: s.url });
  await other.connect();
  onTestFinished(() => other.end());
  await other.query('begin');
  // Whoever waits longer than that first looks for a deadlock, and is its victim: the producer's.
  await other.query(`set local deadlock_timeout = '1min'`);
  await other.query(`update ${s.schema}.pgqrs_queues set created_at = created_at where queue_name = 'other'`);
  const call = producer.enqueue({ n: 0 });
  await blocked(s);
  const table = other.query(`lock table ${s.schema}.pgqrs_messages in access exclusive mode`);
  await within(10_000, 'the other', table);
  await other.query('commit');
  await within(10_000, 'the call', call);
  expect(await seen(s)).toBe(2);
  expect(await order(s)).toEqual([0]);
});

/** Prepared statements of that connection. */
const PREPARED = `select name from pg_prepared_statements where name like 'sluice%'`;

test('prepared statements that are lost between two calls cost nobody a message, and later calls work', async () => {
  const s = await scenario();
  const { sluice, pool } = await watched(s, { max: 1 });
  const producer = await sluice.producer('work');
  await producer.enqueue({ n: 0 });
  // Otherwise this test is about nothing.
  expect((await pool.query(PREPARED)).rowCount).toBe(1);
  await pool.query('deallocate all');
  expect((await producer.enqueue({ n: 1 })).payload).toEqual({ n: 1 });
  await pool.query('discard all');
  await Promise.all(numbers(10).map((n) => producer.enqueue({ n: 2 + n })));
  await producer.batchEnqueue([{ n: 12 }, { n: 13 }]);
  const second = await sluice.producer('work');
  await second.enqueue({ n: 14 });
  expect(await order(s)).toEqual(numbers(15));
});

test('a prepared statement that is there already, under the same name, is no obstacle', async () => {
  const s = await scenario();
  const { sluice, pool, before } = await watched(s, { max: 1 });
  const producer = await sluice.producer('work');
  let taken = '';
  before(/sluice:enqueue/, async (client) => {
    // As another client of a pooler would have left it on this server connection.
    taken = await preparedName(s);
    await client.query(`prepare "${taken}" as select 1`);
  });
  await producer.enqueue({ n: 0 });
  expect(taken).not.toBe('');
  const { rows } = await pool.query<{ name: string; statement: string }>(
    'select name, statement from pg_prepared_statements',
  );
  expect(rows.filter(({ name }) => name === taken)).toHaveLength(1);
  await producer.enqueue({ n: 1 });
  await producer.batchEnqueue([{ n: 2 }, { n: 3 }]);
  expect(await order(s)).toEqual(numbers(4));
});

/** As another producer of the same schema has it. */
async function preparedName(s: Scenario): Promise<string> {
  const { sluice, pool } = await watched(s, { max: 1 });
  const producer = await sluice.producer('work');
  const { id } = await producer.enqueue({ probe: true });
  const { rows } = await pool.query<{ name: string }>(PREPARED);
  await producer.cancel(id);
  expect(rows).toHaveLength(1);
  return rows[0]!.name;
}

test('calls that wait for a lock through a restart of their statement keep their order', async () => {
  const s = await scenario();
  const producer = await s.producer(QUICK);
  const letGo = await lockMessages(s);
  const calls = numbers(5).map((n) => producer.enqueue({ n }));
  const [pid] = await blocked(s);
  calls.push(...numbers(5).map((n) => producer.enqueue({ n: 5 + n })));
  await s.pool.query('select pg_cancel_backend($1)', [pid]);
  await eventually('the next try', async () => (await blocked(s)).length > 0);
  await letGo();
  await Promise.all(calls);
  expect(await order(s)).toEqual(numbers(10));
});
