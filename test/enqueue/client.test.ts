import { once } from 'node:events';
import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import { channelOf } from '../../src/doorbell.js';
import { PayloadInvalidError, type Producer } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { constrain, failureOf, onInsert, order, watched } from './support.js';

const numbers = (count: number) => Array.from({ length: count }, (_, n) => n);

async function client({ url }: Scenario): Promise<pg.Client> {
  const own = new pg.Client({ connectionString: url });
  await own.connect();
  onTestFinished(() => own.end());
  return own;
}

test('calls with a client are in when its transaction commits, and never were when it rolls back', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const own = await client(s);
  const call = async (n: number) => [
    await producer.enqueue({ n }, { client: own }),
    await producer.enqueueDelayed({ n: n + 1 }, 5, { client: own }),
    ...(await producer.batchEnqueue([{ n: n + 2 }, { n: n + 3 }], { client: own, delaySeconds: 1 })),
  ];
  await own.query('begin');
  const messages = await call(0);
  expect(messages.map(({ payload }) => payload)).toEqual(numbers(4).map((n) => ({ n })));
  expect(await s.count()).toBe(0);
  await own.query('commit');
  expect(await order(s)).toEqual(numbers(4));
  await own.query('begin');
  await call(4);
  await own.query('rollback');
  expect(await order(s)).toEqual(numbers(4));
  // A savepoint of the caller's takes back what came after it.
  await own.query('begin');
  await producer.enqueue({ n: 4 }, { client: own });
  await own.query('savepoint here');
  await producer.enqueue({ n: 5 }, { client: own });
  await own.query('rollback to here');
  await own.query('commit');
  // Without a transaction the statement is its own.
  await producer.enqueue({ n: 6 }, { client: own });
  expect(await order(s)).toEqual([0, 1, 2, 3, 4, 6]);
});

const LEVELS = ['read committed', 'repeatable read', 'serializable'];

test.each(LEVELS)('a transaction at %s that was open long before takes messages', async (level) => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work', { heartbeatIntervalSeconds: 0.02 });
  const own = await client(s);
  await own.query(`begin isolation level ${level}; select count(*) from ${s.schema}.pgqrs_workers`);
  const beats = async () => {
    const { rows } = await s.pool.query<{ at: Date }>(
      `select heartbeat_at as at from ${s.schema}.pgqrs_workers where id = ${producer.workerId}`,
    );
    return rows[0]!.at.getTime();
  };
  for (let n = 0; n < 6; n += 3) {
    const before = await beats();
    await eventually('a heartbeat in between', async () => (await beats()) > before);
    await producer.enqueue({ n }, { client: own });
    await producer.batchEnqueue([{ n: n + 1 }, { n: n + 2 }], { client: own });
  }
  // The worker's row is pinned meanwhile; its heartbeat must not wait for that.
  const before = await beats();
  await eventually('a heartbeat that does not wait', async () => (await beats()) > before);
  await own.query('commit');
  expect(await order(s)).toEqual(numbers(6));
  forget();
  await producer.enqueue({ n: 6 });
  expect(count('enqueue')).toBe(1);
});

describe.each(LEVELS.slice(1))('a transaction at %s whose snapshot is older than the producer', (level) => {
  test('is refused its messages, and the producer stays as it is', async () => {
    const s = await scenario();
    const own = await client(s);
    await own.query(`begin isolation level ${level}; select count(*) from ${s.schema}.pgqrs_workers`);
    const producer = await s.producer();
    producer.on('fenced', () => expect.unreachable());
    expect(await failureOf(producer.enqueue({ n: 0 }, { client: own }))).toMatchObject({
      code: 'INVALID_OPTION',
      field: 'client',
    });
    await own.query('rollback');
    await producer.enqueue({ n: 1 });
    expect(await order(s)).toEqual([1]);
  });

  test('is refused its changes, and the producer stays as it is', async () => {
    const s = await scenario();
    const { id } = await (await s.producer()).enqueueDelayed({ n: 1 }, 60);
    const own = await client(s);
    await own.query(`begin isolation level ${level}; select count(*) from ${s.schema}.pgqrs_messages`);
    const producer = await s.producer();
    producer.on('fenced', () => expect.unreachable());
    for (const change of [
      () => producer.cancel(id, { client: own }),
      () => producer.reschedule(id, { delaySeconds: 1 }, { client: own }),
    ]) {
      expect(await failureOf(change())).toMatchObject({ code: 'INVALID_OPTION', field: 'client' });
    }
    await own.query('rollback');
    expect(await producer.cancel(id)).toBe(true);
  });
});

test('consumers hear of messages with the commit, not before, and of a rollback nothing', async () => {
  const s = await scenario({ pollIntervalMs: 3_600_000 });
  const producer = await s.producer();
  const consumer = await s.consumer();
  const listening = once(consumer, 'listening');
  const got: number[] = [];
  consumer
    .messages<{ n: number }>()
    .on('data', ({ payload }: { payload: { n: number } }) => got.push(payload.n));
  await listening;
  const own = await client(s);
  await own.query('begin');
  await producer.enqueue({ n: 0 }, { client: own });
  await own.query('rollback');
  await own.query('begin');
  await producer.enqueue({ n: 1 }, { client: own });
  await own.query('commit');
  await eventually('the message', () => got.length > 0);
  await own.query('begin');
  await producer.batchEnqueue([{ n: 2 }, { n: 3 }], { client: own });
  await own.query('commit');
  await eventually('the batch', () => got.length === 3);
  expect(got).toEqual([1, 2, 3]);
});

/** Everything that is notified on the queue's channel. */
async function heard(s: Scenario, producer: Producer): Promise<string[]> {
  const ear = await client(s);
  const channels: string[] = [];
  ear.on('notification', ({ channel }) => channels.push(channel));
  await ear.query(`listen ${channelOf(s.schema, producer.queue.id)}`);
  await ear.query('listen the_end');
  return channels;
}

test('with notify: false nobody is told, and without it everybody once per transaction', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const channels = await heard(s, producer);
  const own = await client(s);
  const theEnd = async () => {
    await own.query('notify the_end');
    await eventually('the end', () => channels.includes('the_end'));
    return channels.splice(0).length - 1;
  };
  await own.query('begin');
  await producer.enqueue({ n: 0 }, { client: own, notify: false });
  await producer.batchEnqueue([{ n: 1 }, { n: 2 }], { client: own, notify: false });
  await own.query('commit');
  expect(await theEnd()).toBe(0);
  await own.query('begin');
  for (let n = 3; n < 6; n++) await producer.enqueue({ n }, { client: own });
  await own.query('commit');
  expect(await theEnd()).toBe(1);
  expect(await order(s)).toEqual(numbers(6));
});

test('calls with a client share no statement, with each other or with anybody', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work');
  const own = await client(s);
  let sent = 0;
  const query = own.query.bind(own) as (...args: unknown[]) => unknown;
  own.query = ((...args: unknown[]) => {
    if (String(args[0]).includes('sluice:enqueue')) sent++;
    return query(...args);
  }) as typeof own.query;
  await own.query('begin');
  forget();
  const shared = numbers(20).map((n) => producer.enqueue({ n }));
  for (let n = 0; n < 20; n++) await producer.enqueue({ n: 100 + n }, { client: own });
  await Promise.all(shared);
  expect([sent, count('enqueue')]).toEqual([20, 1]);
  await own.query('rollback');
  expect(await order(s)).toEqual(numbers(20));
});

test('a call with a client is never tried again, and leaves its typed error to a transaction that must roll back', async () => {
  const s = await scenario();
  await onInsert(
    s,
    `if new.payload->>'n' = '0' then raise exception 'again' using errcode = '40001'; end if;`,
  );
  const producer = await s.producer({ retryBaseMs: 1 });
  const own = await client(s);
  await own.query('begin');
  expect(await failureOf(producer.enqueue({ n: 0 }, { client: own }))).toMatchObject({
    code: 'DATABASE_ERROR',
    sqlState: '40001',
    transient: true,
  });
  const { rows } = await s.pool.query<{ n: number }>(
    `select last_value::int as n from ${s.schema}.rows_seen`,
  );
  expect(rows[0]!.n).toBe(1);
  expect(await failureOf(producer.enqueue({ n: 1 }, { client: own }))).toMatchObject({
    code: 'DATABASE_ERROR',
    sqlState: '25P02',
  });
  await own.query('rollback');
  await constrain(s, "payload->>'bad' is null");
  const refused = await failureOf(producer.enqueue({ n: 2, bad: 1 }, { client: own }));
  expect(refused).toBeInstanceOf(PayloadInvalidError);
  expect(refused).toMatchObject({ index: undefined, cause: { sqlState: '23514' } });
  const batch = await failureOf(producer.batchEnqueue([{ n: 2 }, { n: 3, bad: 1 }], { client: own }));
  expect(batch).toMatchObject({ code: 'PAYLOAD_INVALID', cause: { sqlState: '23514' } });
  await producer.enqueue({ n: 4 }, { client: own });
  expect(await order(s)).toEqual([4]);
});

test('a client that is dead, or dies in the middle, is an error of the connection, and the call is not sent elsewhere', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work');
  const own = new pg.Client({ connectionString: s.url });
  own.on('error', () => undefined);
  await own.connect();
  const { rows } = await own.query<{ pid: number }>('select pg_backend_pid() as pid');
  await own.query('begin');
  await producer.enqueue({ n: 0 }, { client: own });
  forget();
  const ended = new Promise((resolve) => own.once('end', resolve));
  await s.pool.query('select pg_terminate_backend($1)', [rows[0]!.pid]);
  await within(5_000, 'the end of the client', ended);
  expect(await failureOf(producer.enqueue({ n: 1 }, { client: own }))).toMatchObject({
    code: 'CONNECTION_FAILED',
  });
  expect(count('enqueue')).toBe(0);
  expect(await s.count()).toBe(0);
});

test('cancel and reschedule with a client are part of its transaction', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const own = await client(s);
  const { id: first } = await producer.enqueueDelayed({ n: 0 }, 3_600);
  const { id: second } = await producer.enqueueDelayed({ n: 1 }, 3_600);
  const due = async () => (await s.sluice.admin.getMessage(second))!.vt.getTime();
  const before = await due();
  for (const end of ['rollback', 'commit']) {
    await own.query('begin');
    expect(await producer.cancel(first, { client: own })).toBe(true);
    expect(await producer.cancel(first, { client: own })).toBe(false);
    expect(await producer.reschedule(second, { delaySeconds: 60 }, { client: own })).toBe(true);
    expect(await due()).toBe(before);
    expect(await s.count()).toBe(2);
    await own.query(end);
    expect(await s.count()).toBe(end === 'commit' ? 1 : 2);
    expect((await due()) === before).toBe(end === 'rollback');
  }
  // What this transaction itself has put in, too.
  await own.query('begin');
  const { id } = await producer.enqueue({ n: 2 }, { client: own });
  expect(await producer.cancel(id, { client: own })).toBe(true);
  await own.query('commit');
  expect(await order(s)).toEqual([1]);
});
