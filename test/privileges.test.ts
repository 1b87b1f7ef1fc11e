import { expect, test } from 'vitest';
import { DeadLetter, RetryAfter } from '../src/index.js';
import { put, putDead } from './support/dead-messages.js';
import { eventually, within } from './support/eventually.js';
import { asRole, type Block } from './support/roles.js';
import { numbered, type Scenario, scenario } from './support/scenario.js';

/* The roles of docs/privileges.md at work, with the privileges that its blocks give. */

const DENIED = { code: 'PERMISSION_DENIED' };

const PRODUCER_BLOCKS: Block[] = [
  'producer',
  'producer-keys',
  'producer-backlog',
  'producer-changes',
  'producer-replay',
];

interface Row {
  id: string;
  archived: boolean;
  held: boolean;
  readCount: number;
  reason: string | null;
}

/** All messages, by id. */
async function rows({ pool, schema }: Scenario): Promise<Row[]> {
  const { rows } = await pool.query<Row>(
    `select m.id::text, archived_at is not null as archived, consumer_worker_id is not null and archived_at is null as held,
       read_ct as "readCount", f.reason
     from ${schema}.pgqrs_messages m left join ${schema}.sluice_failures f on f.message_id = m.id order by m.id`,
  );
  return rows;
}

async function statuses({ pool, schema }: Scenario): Promise<string[]> {
  const { rows } = await pool.query<{ status: string }>(`select status::text from ${schema}.pgqrs_workers`);
  return rows.map(({ status }) => status);
}

test('a producer’s role loads, enqueues and resumes, and leaves in order', async () => {
  const test = await scenario();
  const { sluice } = await asRole(test, 'producer');
  const producer = await sluice.producer('work');
  for (const method of ['copy', 'insert'] as const)
    await producer.ingest(numbered(200), {
      method,
      batchSize: 50,
      delaySeconds: () => 0,
      resume: `by ${method}`,
    });
  await producer.enqueue({ n: 1 });
  await producer.enqueueDelayed({ n: 2 }, 60);
  await producer.batchEnqueue([{ n: 3 }, { n: 4 }], { delaySeconds: 5 });
  const again = await producer.ingest(numbered(250), { resume: 'by copy' });
  expect(again.committed).toBe(50);
  await producer.suspend();
  await producer.resume();
  expect(await producer.isHealthy({ minutes: 1 })).toBe(true);
  await producer.close();
  expect(await test.count()).toBe(454);
  expect(await statuses(test)).toEqual(['stopped']);
});

test('a producer’s role with all its blocks uses keys, waits for room, and changes what it has sent', async () => {
  const test = await scenario();
  const { sluice } = await asRole(test, ...PRODUCER_BLOCKS);
  const producer = await sluice.producer('work');
  const first = await producer.enqueue({ n: 1 }, { dedupeKey: 'one' });
  expect(await producer.enqueue({ n: 1 }, { dedupeKey: 'one' })).toBeUndefined();
  const { committed } = await producer.ingest(numbered(10), {
    dedupeKey: ({ n }) => String(n % 5),
    maxBacklog: 1_000,
  });
  expect(committed).toBe(5);

  const { id } = await producer.enqueueDelayed({ n: 2 }, 3600);
  expect(await producer.reschedule(id, { delaySeconds: 7200 })).toBe(true);
  expect(await producer.cancel(id)).toBe(true);
  const message = (await (await test.consumer()).dequeue())!;
  expect(message.id).toBe(first!.id);
  expect(await producer.extendVisibility(message.id, 60)).toBe(true);
  await message.archive();
  expect(await producer.replay(message.id)).toMatchObject({ id: message.id, payload: { n: 1 } });
  const [dead] = await putDead(test, 1);
  expect(await producer.replay(dead!)).toMatchObject({ id: dead, readCount: 0 });
});

test('a consumer’s role runs handlers: archived, retried, dead', async () => {
  const test = await scenario();
  const [good, again, hopeless, refused] = await put(test, { count: 4 });
  const { sluice } = await asRole(test, 'consumer');
  const consumer = await sluice.consumer('work', { maxReadCount: 2, backoff: 0 });
  const stop = new AbortController();
  const run = consumer.run(
    ({ id, readCount }) => {
      if (id === again && readCount === 1) throw new RetryAfter(0.01);
      if (id === hopeless) throw new Error('never');
      if (id === refused) throw new DeadLetter('no such customer');
    },
    { signal: stop.signal },
  );
  await eventually('all are archived', async () => (await rows(test)).every(({ archived }) => archived));
  stop.abort();
  expect(await run).toEqual({ done: 2, retried: 2, dead: 2, lost: 0, released: 0 });
  await consumer.close();
  expect(await rows(test)).toEqual([
    { id: good, archived: true, held: false, readCount: 1, reason: null },
    { id: again, archived: true, held: false, readCount: 2, reason: null },
    { id: hopeless, archived: true, held: false, readCount: 2, reason: 'exhausted' },
    { id: refused, archived: true, held: false, readCount: 1, reason: 'no such customer' },
  ]);
  expect(await statuses(test)).toEqual(['stopped']);
});

test('a consumer’s role settles in a transaction, and outlasts a short lease', async () => {
  const test = await scenario();
  const { sluice, role } = await asRole(test, 'consumer');
  await test.pool.query(
    `create table ${test.schema}.orders (id bigint); grant insert on ${test.schema}.orders to ${role.name}`,
  );
  const [id] = await put(test, { count: 1 });
  const consumer = await sluice.consumer('work', { lockSeconds: 0.3 });
  const leaseEnds = async () => {
    const text = `select extract(epoch from vt)::float8 as vt from ${test.schema}.pgqrs_messages where id = $1`;
    return (await test.pool.query<{ vt: number }>(text, [id])).rows[0]!.vt;
  };
  const stop = new AbortController();
  await consumer.run(
    async (message, { client }) => {
      await client.query(`insert into ${test.schema}.orders values (${message.id})`);
      const before = await leaseEnds();
      await eventually('the lease is renewed, twice', async () => (await leaseEnds()) > before + 0.3);
      stop.abort();
    },
    { transactional: true, signal: stop.signal },
  );
  expect(await rows(test)).toMatchObject([{ id, archived: true, readCount: 1 }]);
  const { rows: orders } = await test.pool.query(`select id from ${test.schema}.orders`);
  expect(orders).toEqual([{ id }]);
});

test('a consumer’s role reads messages(), gives back what it did not read, and shuts down', async () => {
  const test = await scenario();
  const [first, ...others] = await put(test, { count: 5 });
  const { sluice } = await asRole(test, 'consumer');
  const consumer = await sluice.consumer('work');
  for await (const message of consumer.messages()) {
    expect(message.id).toBe(first);
    expect(await consumer.extendVisibility(message, 60)).toBe(true);
    expect(await message.archive()).toBe(true);
    break;
  }
  await eventually('the others are back', async () => (await rows(test)).every(({ held }) => !held));
  expect((await rows(test)).slice(1)).toEqual(
    others.map((id) => ({ id, archived: false, held: false, readCount: 0, reason: null })),
  );
  await consumer.suspend();
  await consumer.shutdown();
  expect(await statuses(test)).toEqual(['stopped']);
});

test.each([false, true])(
  'a consumer’s role that only archives cannot delete, and loses nothing over it (transactional: %s)',
  async (transactional) => {
    const test = await scenario();
    const [id] = await put(test, { count: 1 });
    const { sluice } = await asRole(test, 'consumer');
    const consumer = await sluice.consumer('work', { lockSeconds: 0.5, backoff: 0 });
    const stop = new AbortController();
    const failures: unknown[] = [];
    consumer.on('failed', ({ error }) => failures.push(error));
    const run = consumer.run(() => undefined, {
      onSuccess: 'delete',
      signal: stop.signal,
      ...(transactional && { transactional }),
    });
    // A transaction gives back what it has not settled, and that counts as no delivery.
    const readCount = transactional ? 0 : 1;
    // No handler's failure: it would be the same with every message.
    failures.push(
      await within(
        10_000,
        'the end',
        run.catch((error: unknown) => error),
      ),
    );
    expect(failures).toEqual([expect.objectContaining(DENIED)]);
    expect((failures[0] as Error).message).toContain('permission denied for table pgqrs_messages');
    expect(await rows(test)).toMatchObject([{ id, archived: false, readCount }]);

    const other = await test.consumer();
    const message = await eventually('it comes back', () => other.dequeue());
    expect(message).toMatchObject({ id, readCount: readCount + 1 });
  },
);

test('a consumer’s role with DELETE deletes what is done, and what has been kept for long enough', async () => {
  const test = await scenario();
  await test.sluice.admin.setRetention('work', { archiveSeconds: 60, deadLetterSeconds: 60 });
  await put(test, { count: 2, columns: { archived_at: `now() - interval '1 hour'` } });
  await putDead(test, 2, { age: `interval '1 hour'` });
  await put(test, { count: 3 });
  const { sluice } = await asRole(test, 'consumer', 'consumer-delete', 'consumer-retention');
  const consumer = await sluice.consumer('work', { housekeepingIntervalSeconds: 0.05 });
  const run = consumer.run(() => undefined, { onSuccess: 'delete' });
  await eventually('nothing is left', async () => (await test.count()) === 0);
  await consumer.close();
  expect(await run).toMatchObject({ done: 3 });
});

test('an admin’s role does all of an admin’s work', async () => {
  const test = await scenario();
  const { sluice } = await asRole(test, 'admin');
  const { admin } = sluice;
  await admin.createQueue('mails');
  const [held] = await put(test, { count: 1 });
  const consumer = await test.consumer();
  expect((await consumer.dequeue())!.id).toBe(held);
  await put(test, { count: 2, columns: { read_ct: '5' } });
  await putDead(test, 2);
  await put(test, { count: 4, columns: { archived_at: 'now()' } });

  expect(await admin.queueMetrics('work')).toMatchObject({ leased: 1, dead: 4, archived: 4 });
  await admin.pauseQueue('work');
  expect(await admin.queueSettings('work')).toMatchObject({ pausedAt: expect.any(Date) as Date });
  await admin.resumeQueue('work');
  expect(await admin.sweepExhausted({ queue: 'work' })).toHaveLength(2);
  const letters = admin.deadLetters('work');
  const { messages } = await letters.list({ reason: 'exhausted' });
  expect(messages).toHaveLength(4);
  expect(await letters.replay(messages[0]!.id)).toBe(1);
  expect(await letters.purge({ all: true })).toBe(3);
  expect(await admin.archive('work').purge({ all: true })).toBe(4);
  expect(await admin.reclaim({ olderThanSeconds: 0 })).toMatchObject({ messages: 1 });
  await admin.verify();
  expect(await admin.purgeQueue('work')).toBe(2);
  expect(await admin.purgeWorkers({ olderThanSeconds: 0 })).toBe(1);
  await admin.deleteQueue('work');
  expect((await admin.listQueues()).map(({ name }) => name)).toEqual(['mails']);
});
