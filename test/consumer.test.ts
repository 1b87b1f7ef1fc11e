// Long because it holds the whole contract of claims and deliveries, which share their helpers.
import { once } from 'node:events';
import pg from 'pg';
import { expect, test } from 'vitest';
import { channelOf } from '../src/doorbell.js';
import { Config, Consumer, type Message, Producer, WorkerFencedError } from '../src/index.js';
import { eventually, within } from './support/eventually.js';
import { numbered, scenario, type Scenario } from './support/scenario.js';
import { spied } from './support/spied.js';

interface Row {
  id: string;
  n: number;
  read_ct: number;
  consumer: string | null;
  archived: boolean;
  dequeued: boolean;
  /** Seconds until it is due. */
  due: number;
}

async function rows({ pool, schema }: Scenario): Promise<Row[]> {
  const { rows } = await pool.query<Row>(
    `select id::text, (payload->>'n')::int as n, read_ct, consumer_worker_id::text as consumer,
       archived_at is not null as archived, dequeued_at is not null as dequeued,
       extract(epoch from vt - now())::float8 as due
     from ${schema}.pgqrs_messages order by id`,
  );
  return rows;
}

async function enqueue(s: Scenario, count: number, delaySeconds = 0, from = 0): Promise<void> {
  await (await s.producer()).ingest(numbered(count, from), { delaySeconds });
}

/** Lets the leases of all messages expire, `ago` seconds ago. */
async function expire({ pool, schema }: Scenario, ago = 1): Promise<void> {
  await pool.query(
    `update ${schema}.pgqrs_messages set vt = now() - $1 * interval '1 second' where consumer_worker_id is not null`,
    [ago],
  );
}

const ns = (messages: Message[]) => messages.map(({ payload }) => (payload as { n: number }).n);

test('messages come in the order of their being due, whatever their order in the table', async () => {
  const s = await scenario();
  await enqueue(s, 8);
  await s.pool.query(`update ${s.schema}.pgqrs_messages set vt = now() - id * interval '1 second'`);
  const consumer = await s.consumer();
  expect(ns(await consumer.dequeueMany(3))).toEqual([7, 6, 5]);
  expect(ns(await consumer.dequeueMany(100))).toEqual([4, 3, 2, 1, 0]);
  expect(await consumer.dequeueMany(100)).toEqual([]);
  expect(await consumer.dequeue()).toBeUndefined();
});

test('a message says what the table says', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer();
  const message = (await consumer.dequeue<{ n: number; text: string }>({ lockSeconds: 100 }))!;
  const { rows } = await s.pool.query<Record<string, unknown>>(`select * from ${s.schema}.pgqrs_messages`);
  const [row] = rows;
  expect(message).toMatchObject({
    id: row!.id,
    queueId: s.queue.id,
    payload: [...numbered(1)][0],
    vt: row!.vt,
    enqueuedAt: row!.enqueued_at,
    dequeuedAt: row!.dequeued_at,
    readCount: 1,
    producerWorkerId: row!.producer_worker_id,
    consumerWorkerId: consumer.workerId,
    archivedAt: null,
  });
  expect(message.vt.getTime() - message.dequeuedAt!.getTime()).toBe(100_000);
});

test('eight consumers at once never hold the same message, and together get all of them', async () => {
  const s = await scenario({ maxConnections: 8 });
  await enqueue(s, 2_000);
  const consumers = await Promise.all(Array.from({ length: 8 }, () => s.consumer()));
  const got: string[] = [];
  await Promise.all(
    consumers.map(async (consumer) => {
      for (;;) {
        const messages = await consumer.dequeueMany(37);
        if (messages.length === 0 && got.length >= 2_000) return;
        got.push(...messages.map(({ id }) => id));
      }
    }),
  );
  expect(new Set(got).size).toBe(2_000);
  expect(got.length).toBe(2_000);
});

test('delayed, archived and exhausted messages are not delivered', async () => {
  const s = await scenario();
  await enqueue(s, 1, 3_600);
  await enqueue(s, 3, 0, 1);
  await s.pool.query(
    `update ${s.schema}.pgqrs_messages set archived_at = case when payload->>'n' = '1' then now() end,
       read_ct = case when payload->>'n' = '2' then 5 else 4 end`,
  );
  const consumer = await s.consumer();
  expect(ns(await consumer.dequeueMany(10))).toEqual([3]);
  const patient = await s.consumer({ maxReadCount: 6 });
  expect(ns(await patient.dequeueMany(10))).toEqual([2]);
});

test('a lease that has expired comes back, each time counted, until the attempts are used up', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer({ maxReadCount: 3 });
  const other = await s.consumer({ maxReadCount: 3 });
  for (const [readCount, taker] of [consumer, other, consumer].entries()) {
    expect((await taker.dequeue())?.readCount).toBe(readCount + 1);
    expect(await consumer.dequeue()).toBeUndefined();
    expect(await other.dequeue()).toBeUndefined();
    await expire(s);
  }
  expect(await other.dequeue()).toBeUndefined();
});

test('with lockSeconds 0 a lease is over at once', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer();
  expect((await consumer.dequeue({ lockSeconds: 0 }))?.readCount).toBe(1);
  expect((await consumer.dequeue({ lockSeconds: 0.05 }))?.readCount).toBe(2);
  expect((await eventually('an expired lease', () => consumer.dequeue())).readCount).toBe(3);
});

test('archive, delete and release answer for each message in input order', async () => {
  const s = await scenario();
  await enqueue(s, 7);
  const consumer = await s.consumer();
  const other = await s.consumer();
  const [a, b, c, d] = (await consumer.dequeueMany(4)) as [Message, Message, Message, Message];
  const theirs = (await other.dequeue())!;

  expect(await consumer.archiveMany([theirs, a, '999999', a.id, a])).toEqual([
    false,
    true,
    false,
    true,
    true,
  ]);
  expect(await consumer.archiveMany([a])).toEqual([false]);
  expect(await consumer.deleteMany([a.id, b.id, theirs.id])).toEqual([false, true, false]);
  expect(await consumer.releaseMany([b, c], { delaySeconds: 50 })).toEqual([false, true]);
  expect(await d.release()).toBe(true);
  expect(await d.release()).toBe(false);
  expect(await consumer.archiveMany([])).toEqual([]);

  const table = await rows(s);
  expect(table.map(({ n }) => n)).toEqual([0, 2, 3, 4, 5, 6]);
  expect(table[0]).toMatchObject({ archived: true, consumer: consumer.workerId, read_ct: 1 });
  expect(table[1]).toMatchObject({ archived: false, consumer: null, read_ct: 1 });
  expect(table[1]!.due).toBeGreaterThan(45);
  expect(table[2]).toMatchObject({ archived: false, consumer: null, read_ct: 1 });
  expect(table[2]!.due).toBeLessThanOrEqual(0);
  expect(table[3]).toMatchObject({ archived: false, consumer: other.workerId, read_ct: 1 });
  expect(await theirs.archive()).toBe(true);
});

const settlements: Record<string, (message: Message) => Promise<boolean>> = {
  archive: (message) => message.archive(),
  delete: (message) => message.delete(),
  release: (message) => message.release({ delaySeconds: 5 }),
  extendVisibility: (message) => message.extendVisibility(500),
};

test.each(Object.entries(settlements))(
  '%s works after expiry, but not any more when another delivery has begun',
  async (_name, settle) => {
    const s = await scenario();
    await enqueue(s, 3);
    const consumer = await s.consumer();
    const other = await s.consumer();
    const [mine, lost, again] = (await consumer.dequeueMany(3)) as [Message, Message, Message];
    await expire(s);
    expect(await settle(mine)).toBe(true);
    // One goes to another consumer, one to the same again.
    await s.pool.query(`update ${s.schema}.pgqrs_messages set vt = now() + interval '1 hour' where id = $1`, [
      again.id,
    ]);
    expect((await other.dequeueMany(1)).map(({ id }) => id)).toEqual([lost.id]);
    await s.pool.query(`update ${s.schema}.pgqrs_messages set vt = now() where id = $1`, [again.id]);
    const current = (await consumer.dequeue())!;
    expect(current).toMatchObject({ id: again.id, readCount: 2 });

    const before = await rows(s);
    expect(await settle(lost)).toBe(false);
    expect(await settle(again)).toBe(false);
    expect((await rows(s)).map(({ due: _due, ...row }) => row)).toEqual(
      before.map(({ due: _due, ...row }) => row),
    );
    expect(await consumer.archiveMany([again, current])).toEqual([false, true]);
  },
);

test('thousands are settled at once in no time, though the statistics know of no lease', async () => {
  const s = await scenario();
  await enqueue(s, 10_000);
  await s.pool.query(`vacuum analyze ${s.schema}.pgqrs_messages`);
  const consumer = await s.consumer();
  const messages = await consumer.dequeueMany(4_000);
  // Each compared with each would take 14 seconds.
  const answers = await within(4_000, 'archiving', consumer.archiveMany(messages));
  expect(answers.filter(Boolean)).toHaveLength(4_000);
});

test('extending adds to what is left, and never shortens', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer();
  const message = (await consumer.dequeue({ lockSeconds: 100 }))!;
  const due = async () => (await rows(s))[0]!.due;
  expect(await message.extendVisibility(50)).toBe(true);
  expect(await due()).toSatisfy((seconds: number) => seconds > 145 && seconds <= 150);
  expect(await consumer.extendVisibility(message.id, 0)).toBe(true);
  expect(await due()).toBeGreaterThan(140);
  await expire(s, 1_000);
  expect(await message.extendVisibility(10)).toBe(true);
  expect(await due()).toSatisfy((seconds: number) => seconds > 5 && seconds <= 10);
  await message.archive();
  const [archived] = await rows(s);
  expect(await message.extendVisibility(10)).toBe(false);
  expect(await message.release()).toBe(false);
  expect(await message.delete()).toBe(false);
  expect(await consumer.delete(message.id)).toBe(false);
  expect((await rows(s))[0]).toMatchObject({ n: archived!.n, archived: true, consumer: consumer.workerId });
});

test.each(['never', 'stale', 'expired'] as const)(
  'expired leases of foreign workers come back as the policy says: %s',
  async (foreignLeases) => {
    const s = await scenario();
    await enqueue(s, 4);
    const foreign = async (name: string, silentSeconds: number, leaseEndedSeconds: number, n: number) => {
      await s.pool.query(
        `with w as (insert into ${s.schema}.pgqrs_workers (name, queue_id, heartbeat_at)
           values ($1, $2, now() - $3 * interval '1 second') returning id)
         update ${s.schema}.pgqrs_messages m set consumer_worker_id = w.id, read_ct = 1, vt = now() - $4 * interval '1 second'
         from w where payload->>'n' = $5::text`,
        [name, s.queue.id, silentSeconds, leaseEndedSeconds, String(n)],
      );
    };
    await foreign('lease still running', 1_000, -1_000, 0);
    await foreign('silent, but the lease has just ended', 1_000, 30, 1);
    await foreign('alive, with an old lease', 30, 1_000, 2);
    await foreign('dead', 61, 61, 3);
    const consumer = await s.consumer({ foreignLeases });
    const expected = { never: [], stale: [3], expired: [2, 3, 1] }[foreignLeases];
    expect(ns(await consumer.dequeueMany(10))).toEqual(expected);
  },
);

test('a message that foreign leases block does not make the stream claim in a hot loop', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  await s.pool.query(
    `with w as (insert into ${s.schema}.pgqrs_workers (name, queue_id) values ('pgqrs', $1) returning id)
     update ${s.schema}.pgqrs_messages set consumer_worker_id = w.id, vt = now() - interval '1 hour' from w`,
    [s.queue.id],
  );
  const { sluice, count } = await spied(s, { pollIntervalMs: 100 });
  const consumer = await sluice.consumer('work');
  const stream = consumer.messages().on('data', () => expect.unreachable());
  await eventually('the first claim', () => count('claim_messages') > 0);
  const claims = count('claim_messages');
  const from = performance.now();
  await eventually('three more claims', () => count('claim_messages') >= claims + 3);
  expect(performance.now() - from).toBeGreaterThan(150);
  stream.destroy();
});

test('a flood of notifications makes no storm of claims', async () => {
  const s = await scenario();
  const { sluice, count } = await spied(s, { pollIntervalMs: 3_600_000 });
  const consumer = await sluice.consumer('work');
  const listening = once(consumer, 'listening');
  const stream = consumer.messages().on('data', () => expect.unreachable());
  await listening;
  const client = await s.pool.connect();
  const claims = count('claim_messages');
  const from = performance.now();
  let sent = 0;
  while (performance.now() - from < 500) {
    await client.query(`select pg_notify($1, n::text) from generate_series(1, 50) n`, [
      channelOf(s.schema, s.queue.id),
    ]);
    sent += 50;
  }
  const elapsed = performance.now() - from;
  client.release();
  expect(sent).toBeGreaterThan(500);
  expect(count('claim_messages') - claims).toBeGreaterThan(2);
  expect(count('claim_messages') - claims).toBeLessThanOrEqual(elapsed / 5 + 2);
  stream.destroy();
});

test('a consumer whose name was taken over claims nothing more, and may only finish what it holds', async () => {
  const s = await scenario();
  await enqueue(s, 4);
  const zombie = await s.consumer({ hostname: 'host', port: 1 });
  const [held, other] = (await zombie.dequeueMany(2)) as [Message, Message];
  await s.pool.query(
    `update ${s.schema}.pgqrs_workers set heartbeat_at = now() - interval '2 minutes' where id = $1`,
    [zombie.workerId],
  );
  const successor = await s.consumer({ hostname: 'host', port: 1 });
  expect(successor.workerId).toBe(zombie.workerId);
  const fenced = once(zombie, 'fenced');
  expect(await zombie.archive(other.id)).toBe(false);
  await expect(zombie.dequeueMany(10)).rejects.toThrow(WorkerFencedError);
  await fenced;
  await expect(zombie.dequeue()).rejects.toThrow(WorkerFencedError);
  expect(() => zombie.messages()).toThrow(WorkerFencedError);
  expect(await held.archive()).toBe(true);
  expect((await rows(s)).map(({ read_ct }) => read_ct)).toEqual([1, 1, 0, 0]);
  expect(ns(await successor.dequeueMany(10))).toEqual([2, 3]);
});

test('the row trigger for foreign claims leaves ours alone', async () => {
  const s = await scenario();
  await enqueue(s, 2);
  await s.pool.query(
    `create function ${s.schema}.tripwire() returns trigger language plpgsql as $$ begin raise 'tripped'; end $$;
     create or replace trigger sluice_check_update after update of queue_id, producer_worker_id, consumer_worker_id
       on ${s.schema}.pgqrs_messages for each row when (
         new.consumer_worker_id is not null and new.consumer_worker_id is distinct from old.consumer_worker_id
         and new.origin is not distinct from old.origin) execute function ${s.schema}.tripwire()`,
  );
  // Their leases run out each time: so often that one alone would come is far off.
  const options = { maxReadCount: 20 };
  const [one, two] = [await s.consumer(options), await s.consumer(options)] as [Consumer, Consumer];
  for (const consumer of [one, two, one]) {
    expect(await consumer.dequeueMany(2)).toHaveLength(2);
    await expire(s);
  }
  await expect(
    s.pool.query(`update ${s.schema}.pgqrs_messages set consumer_worker_id = $1`, [two.workerId]),
  ).rejects.toThrow('tripped');
});

test('limits and durations are checked before anything is sent', async () => {
  const s = await scenario();
  const consumer = await s.consumer();
  await expect(consumer.dequeueMany(0)).rejects.toThrow(
    'limit must be a whole number from 1 to 100000, got 0',
  );
  await expect(consumer.dequeue({ lockSeconds: -1 })).rejects.toThrow('lockSeconds');
  await expect(consumer.extendVisibility('1', Number.NaN)).rejects.toThrow('seconds');
  await expect(consumer.release('1', { delaySeconds: -1 })).rejects.toThrow('delaySeconds');
  await expect(consumer.archive('one')).rejects.toThrow('message id');
  expect(() => consumer.messages({ prefetch: 0 })).toThrow('prefetch');
  await expect(s.consumer({ maxReadCount: 0 })).rejects.toThrow('maxReadCount');
  await expect(s.consumer({ foreignLeases: 'sometimes' as never })).rejects.toThrow('foreignLeases');
});

test('a consumer of a queue that is gone cannot register', async () => {
  const s = await scenario();
  const queue = { ...s.queue, id: '424242' };
  const pool = new pg.Pool({ connectionString: s.url });
  await expect(
    Consumer.create({ pool, queue, config: Config.fromDsnWithSchema(s.url, s.schema) }),
  ).rejects.toMatchObject({ code: 'QUEUE_NOT_FOUND' });
  await pool.end();
});

test('a closed consumer begins nothing, and still settles what it holds', async () => {
  const s = await scenario();
  await enqueue(s, 2);
  const consumer = await s.consumer();
  const message = (await consumer.dequeue())!;
  const closing = [consumer.close(), consumer.close()];
  await expect(consumer.dequeue()).rejects.toMatchObject({ code: 'CLOSED' });
  await within(2_000, 'closing', Promise.all(closing));
  await expect(consumer.dequeue()).rejects.toMatchObject({ code: 'CLOSED' });
  expect(() => consumer.messages()).toThrow('closed');
  expect(await message.archive()).toBe(true);
});

test('a consumer over a pool of the caller leaves it open and nothing else behind', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const pool = new pg.Pool({ connectionString: s.url, application_name: `own-${s.schema}` });
  const consumer = await Consumer.create({
    pool,
    queue: s.queue,
    config: Config.fromDsnWithSchema(s.url, s.schema),
  });
  for await (const message of consumer.messages()) {
    await message.archive();
    break;
  }
  await consumer.close();
  expect((await pool.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  await pool.end();
  await eventually('no connection is left', async () => {
    const { rows } = await s.pool.query(`select from pg_stat_activity where application_name = $1`, [
      `own-${s.schema}`,
    ]);
    return rows.length === 0;
  });
});

test('consumers and producers over one pool share one connection for notifications and a small pool', async () => {
  const s = await scenario();
  const application = `own-${s.schema}`;
  const pool = new pg.Pool({ connectionString: s.url, application_name: application, max: 2 });
  const config = Config.fromDsnWithSchema(s.url, s.schema);
  const options = { pool, queue: s.queue, config };
  const patient = { ...options, pollIntervalMs: 3_600_000 };
  const consumers = await Promise.all(Array.from({ length: 20 }, () => Consumer.create(patient)));
  const producer = await Producer.create(options);
  const got: number[] = [];
  const listening = once(consumers[0]!, 'listening');
  for (const consumer of consumers) {
    consumer
      .messages<{ n: number }>()
      .on('data', ({ payload }: Message<{ n: number }>) => got.push(payload.n));
  }
  await listening;
  for (let n = 0; n < 5; n++) await producer.enqueue({ n });
  await eventually('all messages', () => got.length === 5);
  const connections = async () => {
    const { rows } = await s.pool.query(`select from pg_stat_activity where application_name = $1`, [
      application,
    ]);
    return rows.length;
  };
  // The caller's, two of the small pool, and the one that listens.
  expect(await connections()).toBeLessThanOrEqual(5);
  // Those that are left still hear.
  await Promise.all(consumers.slice(1).map((consumer) => consumer.close()));
  await producer.close();
  await enqueue(s, 1);
  await eventually('one more', () => got.length === 6);
  await consumers[0]!.close();
  await pool.end();
  await eventually('no connection is left', async () => (await connections()) === 0);
});
