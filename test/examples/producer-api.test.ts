import pg from 'pg';
import { expect, expectTypeOf, onTestFinished, test, vi } from 'vitest';
import { batchEnqueue } from '../../examples/producer-api/batch-enqueue.js';
import {
  creatingAProducer,
  creatingAProducerInShort,
} from '../../examples/producer-api/creating-a-producer.js';
import { EmailService } from '../../examples/producer-api/email-service.js';
import { enqueueDelayed } from '../../examples/producer-api/enqueue-delayed.js';
import { placeOrder } from '../../examples/producer-api/enqueue-in-transaction.js';
import { enqueue } from '../../examples/producer-api/enqueue.js';
import { extendVisibility } from '../../examples/producer-api/extend-visibility.js';
import {
  enqueueWithBuiltInRetry,
  enqueueWithRetry,
} from '../../examples/producer-api/producer-with-retry.js';
import {
  enqueueWithBuiltInRateLimit,
  enqueueWithRateLimit,
  streamWithRateLimit,
} from '../../examples/producer-api/rate-limited-producer.js';
import { typedByHand, typedProducer } from '../../examples/producer-api/typed-producer.js';
import { workerMethods } from '../../examples/producer-api/worker-methods.js';
import { Config, connect } from '../../src/index.js';
import { eventually } from '../support/eventually.js';
import { startProgram } from '../support/program.js';
import { startProxy } from '../support/proxy.js';
import { numbered, scenario, type Scenario } from '../support/scenario.js';

interface Row {
  id: string;
  payload: unknown;
  delay: number;
  worker: string;
}

/** A schema with the queues of the page, and what the examples print. */
async function page() {
  const s = await scenario();
  for (const name of ['tasks', 'emails', 'reminders']) await s.sluice.admin.createQueue(name);
  const log = vi.spyOn(console, 'log').mockImplementation(() => undefined);
  onTestFinished(() => log.mockRestore());
  return {
    ...s,
    config: Config.fromDsnWithSchema(s.url, s.schema),
    /** A producer of the page's queue. */
    tasks: () => s.sluice.producer('tasks'),
    /** What was printed, line by line. */
    printed: () => log.mock.calls.map(([line]) => line as string),
    /** Messages in the order of their ids: id, payload, seconds until due, and the worker that enqueued it. */
    rows: async (queue = 'tasks') => {
      const { rows } = await s.pool.query<Row>(
        `select m.id::text, payload, extract(epoch from vt - enqueued_at)::int as delay, w.name as worker
         from ${s.schema}.pgqrs_messages m
         join ${s.schema}.pgqrs_queues q on q.id = m.queue_id
         join ${s.schema}.pgqrs_workers w on w.id = m.producer_worker_id
         where queue_name = $1 order by m.id`,
        [queue],
      );
      return rows;
    },
    worker: async (id: string) => {
      const { rows } = await s.pool.query(
        `select w.name, q.queue_name as queue, w.status::text, w.shutdown_at is not null as "shutDown"
         from ${s.schema}.pgqrs_workers w join ${s.schema}.pgqrs_queues q on q.id = w.queue_id where w.id = $1`,
        [id],
      );
      return rows[0] as unknown;
    },
    /** Seconds between the first message and the last, by the server's clock. */
    tookSeconds: async () => {
      const { rows } = await s.pool.query<{ seconds: number }>(
        `select extract(epoch from max(enqueued_at) - min(enqueued_at))::float8 as seconds
         from ${s.schema}.pgqrs_messages`,
      );
      return rows[0]!.seconds;
    },
  };
}

test('Creating a Producer: a worker by that name, of that queue, that leaves in good order', async () => {
  const { config, worker } = await page();
  for (const create of [creatingAProducer, creatingAProducerInShort]) {
    const id = await create(config);
    expect(await worker(id)).toEqual({
      name: 'my-service:3000',
      queue: 'tasks',
      status: 'stopped',
      shutDown: true,
    });
  }
});

test('enqueue: one message, due at once, as it was returned and printed', async () => {
  const { tasks, rows, printed } = await page();
  const producer = await tasks();
  const message = await enqueue(producer);
  const payload = { action: 'send_email', to: 'user@example.com', subject: 'Welcome!' };
  expect(await rows()).toEqual([{ id: message.id, payload, delay: 0, worker: producer.workerName }]);
  expect(printed()).toEqual([
    `Message ID: ${message.id}`,
    `Enqueued at: ${message.enqueuedAt.toISOString()}`,
  ]);
});

test('batchEnqueue: three messages in their order, in one transaction', async () => {
  const { tasks, rows, printed, pool, schema } = await page();
  const messages = await batchEnqueue(await tasks());
  expect(await rows()).toMatchObject(
    [1, 2, 3].map((user_id, at) => ({
      id: messages[at]!.id,
      payload: { user_id, action: 'welcome_email' },
      delay: 0,
    })),
  );
  const { rows: transactions } = await pool.query(`select distinct xmin::text from ${schema}.pgqrs_messages`);
  expect(transactions).toHaveLength(1);
  expect(printed()).toEqual(['Enqueued 3 messages', ...messages.map(({ id }) => `  ID: ${id}`)]);
});

test('enqueueDelayed: one message, due five minutes after it was enqueued', async () => {
  const { tasks, rows, printed } = await page();
  const { id, vt } = await enqueueDelayed(await tasks());
  const payload = { reminder: 'Follow up with customer', customer_id: 12345 };
  expect(await rows()).toMatchObject([{ id, payload, delay: 300 }]);
  expect(printed()).toEqual([`Message ${id} will be available at ${vt.toISOString()}`]);
});

test('extendVisibility: a lease ends 30 seconds later; without a lease nothing happens', async () => {
  const { tasks, sluice, pool, schema, printed } = await page();
  const producer = await tasks();
  const { id } = await producer.enqueue({});
  const vt = async () => {
    const { rows } = await pool.query<{ vt: number }>(
      `select extract(epoch from vt)::float8 as vt from ${schema}.pgqrs_messages where id = $1`,
      [id],
    );
    return rows[0]!.vt;
  };
  const before = await vt();
  expect(await extendVisibility(producer, id)).toBe(false);
  expect(await vt()).toBe(before);

  const [message] = await (await sluice.consumer('tasks')).dequeueMany(1);
  expect(message?.id).toBe(id);
  const leased = await vt();
  expect(await extendVisibility(producer, id)).toBe(true);
  expect((await vt()) - leased).toBeCloseTo(30, 3);

  expect(await extendVisibility(producer)).toBe(false); // the page's message 42 does not exist
  expect(printed()).toEqual([
    'Failed to extend - message may have been released',
    'Lock extended, continue processing...',
    'Failed to extend - message may have been released',
  ]);
});

test('Worker Methods: id, status and health, and at the end a stopped worker', async () => {
  const { tasks, worker } = await page();
  const producer = await tasks();
  expect(await workerMethods(producer)).toEqual({ id: producer.workerId, status: 'ready', healthy: true });
  expect(await worker(producer.workerId)).toMatchObject({ status: 'stopped', shutDown: true });
});

test('Async Producer Service: one welcome, then a batch of them, all by one worker', async () => {
  const { sluice, config, rows, pool, schema } = await page();
  const service = await EmailService.create(sluice.admin, await sluice.admin.getQueue('tasks'), config);
  const ids = [await service.sendWelcome(1), ...(await service.sendBatch([3, 2]))];
  const users = [1, 3, 2];
  expect(await rows()).toEqual(
    users.map((user_id, at) => ({
      id: ids[at],
      payload: { type: 'welcome', user_id },
      delay: 0,
      worker: 'email-service:3000',
    })),
  );
  await service.close();
  const { rows: workers } = await pool.query(
    `select status::text from ${schema}.pgqrs_workers where name = 'email-service:3000'`,
  );
  expect(workers).toEqual([{ status: 'stopped' }]);
});

const numbers = [...numbered(11)];

test('Rate-Limited Producer: the loop of the page is no faster than its rate', async () => {
  const { tasks, rows, tookSeconds } = await page();
  const ids = await enqueueWithRateLimit(await tasks(), numbers, 50);
  expect(await rows()).toMatchObject(numbers.map((payload, at) => ({ id: ids[at], payload })));
  expect(await tookSeconds()).toBeGreaterThan(0.19); // ten pauses of 20 ms; a timer may fire 1 ms early
});

test('Rate-Limited Producer: built in, calls made all at once come at the rate and in their order', async () => {
  const { sluice, rows, tookSeconds } = await page();
  const ids = await enqueueWithBuiltInRateLimit(sluice, numbers, 50);
  expect(await rows()).toMatchObject(numbers.map((payload, at) => ({ id: ids[at], payload })));
  expect(await tookSeconds()).toBeGreaterThan(0.1); // 0.2, less what the first statement took to prepare
});

test('Rate-Limited Producer: as a step of a pipeline', async () => {
  const { tasks, rows } = await page();
  const producer = await tasks();
  const started = performance.now();
  await streamWithRateLimit(producer, numbers, 50);
  expect(performance.now() - started).toBeGreaterThan(195);
  expect((await rows()).map(({ payload }) => payload)).toEqual(numbers);
});

/** A Sluice whose way to the server can be broken, and what it warns of. */
async function throughProxy(s: Scenario) {
  const proxy = await startProxy(s.url);
  const pool = new pg.Pool({ connectionString: proxy.url });
  pool.on('error', () => undefined);
  const sluice = await connect({ pool, schema: s.schema });
  const warn = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
  onTestFinished(async () => {
    warn.mockRestore();
    await sluice.close().catch(() => undefined);
    await pool.end();
    await proxy[Symbol.asyncDispose]();
  });
  /** From now on no connection can be had, and none is left. */
  const shut = async () => {
    proxy.door = 'shut';
    proxy.cutAll();
    await eventually('the pool has seen that its connections are gone', () => pool.totalCount === 0);
  };
  return { proxy, shut, sluice, warn };
}

test('Producer with Retry: the loop goes on when the connection can be had again', async () => {
  const s = await page();
  const { proxy, shut, sluice, warn } = await throughProxy(s);
  const producer = await sluice.producer('tasks', { retries: 0 });
  await shut();
  warn.mockImplementation(() => {
    if (warn.mock.calls.length === 2) proxy.door = 'open';
  });
  const { id } = await enqueueWithRetry(producer, { n: 1 }, 3);
  expect(await s.rows()).toMatchObject([{ id, payload: { n: 1 } }]);
  expect(warn.mock.calls.flat()).toEqual([
    expect.stringMatching(/^Enqueue failed, retry 1\/3: no connection/),
    expect.stringMatching(/^Enqueue failed, retry 2\/3: no connection/),
  ]);
});

test('Producer with Retry: the loop gives up after so many retries', async () => {
  const s = await page();
  const { proxy, shut, sluice, warn } = await throughProxy(s);
  const producer = await sluice.producer('tasks', { retries: 0 });
  await shut();
  await expect(enqueueWithRetry(producer, { n: 1 }, 1)).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
  expect(warn).toHaveBeenCalledTimes(1);
  proxy.door = 'open';
  expect(await s.rows()).toEqual([]);
});

test('Producer with Retry: the loop never sends twice what may be in, nor what will never go', async () => {
  const s = await page();
  const { proxy, sluice, warn } = await throughProxy(s);
  const producer = await sluice.producer('tasks', { retries: 0 });
  await expect(enqueueWithRetry(producer, undefined, 3)).rejects.toMatchObject({ code: 'PAYLOAD_INVALID' });

  proxy.judge = ({ from, data }) =>
    from === 'client' && data.includes('answer me') ? 'passThenCut' : 'pass';
  await expect(enqueueWithRetry(producer, 'answer me', 3)).rejects.toMatchObject({
    code: 'AMBIGUOUS_ENQUEUE',
  });
  proxy.judge = () => 'pass';
  expect(warn).not.toHaveBeenCalled();
  expect((await s.rows()).length).toBeLessThanOrEqual(1);
});

test('Producer with Retry: built in, the call goes on after failures that pass', async () => {
  const { sluice, rows, pool, schema } = await page();
  // A sequence keeps its place when a transaction fails.
  await pool.query(`
    create sequence ${schema}.tries;
    create function ${schema}.deadlock_twice() returns trigger language plpgsql as $$
    begin
      if nextval('${schema}.tries') < 3 then raise exception 'deadlock' using errcode = '40P01'; end if;
      return null;
    end $$;
    create trigger deadlock_twice after insert on ${schema}.pgqrs_messages
      for each statement execute function ${schema}.deadlock_twice()`);
  const { id } = await enqueueWithBuiltInRetry(sluice, { n: 1 }, 2);
  expect(await rows()).toMatchObject([{ id, payload: { n: 1 } }]);
  const { rows: tries } = await pool.query(`select last_value::int from ${schema}.tries`);
  expect(tries).toEqual([{ last_value: 3 }]);
});

test('Typed Producer: stored is what the schema makes of it; what it refuses is not sent', async () => {
  const { sluice, rows, printed } = await page();
  const message = await typedProducer(sluice);
  expectTypeOf(message.payload).toEqualTypeOf<{ to: string; subject: string }>();
  const payload = { to: 'user@example.com', subject: 'Welcome!' };
  expect(message.payload).toEqual(payload);
  expect(await rows('emails')).toMatchObject([{ id: message.id, payload }]);
  expect(printed()).toEqual(['Subject: Welcome!', 'Refused: to']);
});

test('Typed Producer: by hand', async () => {
  const { sluice, rows } = await page();
  const { id, payload } = await typedByHand(sluice);
  expectTypeOf(payload).toEqualTypeOf<{ reminder: string; customer_id: number }>();
  expect(await rows('reminders')).toMatchObject([{ id, payload }]);
  expect(payload).toEqual({ reminder: 'Follow up with customer', customer_id: 12345 });
});

test('Enqueue in a Transaction: order and message are both there, or neither is', async () => {
  const { tasks, rows, url, schema } = await page();
  const producer = await tasks();
  const pool = new pg.Pool({ connectionString: url, options: `-c search_path=${schema}` });
  onTestFinished(() => pool.end());
  await pool.query('create table orders (customer_id bigint, total numeric check (total > 0))');
  const orders = async () =>
    (await pool.query<object>('select customer_id::int, total::float8 from orders')).rows;

  const { id } = await placeOrder(pool, producer, { customerId: 12345, total: 99.5 });
  const both = async () => {
    expect(await orders()).toEqual([{ customer_id: 12345, total: 99.5 }]);
    expect(await rows()).toMatchObject([
      { id, payload: { action: 'confirm_order', customerId: 12345, total: 99.5 } },
    ]);
  };
  await both();

  await expect(placeOrder(pool, producer, { customerId: 1, total: -1 })).rejects.toThrow(/check constraint/);
  await both();
  await producer.suspend();
  await expect(placeOrder(pool, producer, { customerId: 1, total: 1 })).rejects.toMatchObject({
    code: 'WORKER_SUSPENDED',
  });
  await both();
  expect(pool.idleCount).toBe(pool.totalCount); // every client came back
});

test('all of them run as one program, which leaves nothing behind', async () => {
  const { url, pool } = await page();
  const program = startProgram('examples/producer-api/all.ts', { DATABASE_URL: url });
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  expect(program.err).toEqual([]);
  expect(program.out.filter((line) => line.startsWith('== '))).toHaveLength(12);
  const { rows } = await pool.query(
    `select nspname from pg_namespace where nspname like 'sluice\\_examples\\_%'`,
  );
  expect(rows).toEqual([]);
});
