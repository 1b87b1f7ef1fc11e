import { once } from 'node:events';
import { expect, test } from 'vitest';
import { channelOf } from '../src/doorbell.js';
import type { Message } from '../src/index.js';
import { startChild } from './support/child-process.js';
import { eventually, within } from './support/eventually.js';
import { numbered, scenario, type Scenario } from './support/scenario.js';
import { spied } from './support/spied.js';

type Item = Message<{ n: number }>;

/** What would be polled only once in an hour. */
const PATIENT = { pollIntervalMs: 3_600_000 };

async function leased({ pool, schema }: Scenario): Promise<number> {
  const { rows } = await pool.query<{ count: number }>(
    `select count(*)::int as count from ${schema}.pgqrs_messages where consumer_worker_id is not null and archived_at is null`,
  );
  return rows[0]!.count;
}

async function readCounts({ pool, schema }: Scenario): Promise<number[]> {
  const { rows } = await pool.query<{ read_ct: number }>(
    `select read_ct from ${schema}.pgqrs_messages order by (payload->>'n')::int`,
  );
  return rows.map((row) => row.read_ct);
}

test('a message that another process commits arrives by notification alone', async () => {
  const s = await scenario(PATIENT);
  const consumer = await s.consumer();
  const listening = once(consumer, 'listening');
  const messages = consumer.messages<{ n: number }>()[Symbol.asyncIterator]();
  const child = startChild('child-consumer.ts', 'produce', s.url, s.schema);
  let next = messages.next();
  await Promise.all([listening, child.next()]);
  for (let n = 0; n < 20; n++) {
    child.process.send({ n });
    const { value } = (await within(5_000, `message ${n}`, next)) as { value: Item };
    expect(value.payload).toEqual({ n });
    await value.archive();
    next = messages.next();
  }
});

test('a delayed message arrives when it is due, with nothing to announce it', async () => {
  const s = await scenario(PATIENT);
  const consumer = await s.consumer();
  const stream = consumer.messages<{ n: number }>();
  const listening = once(consumer, 'listening');
  const first = once(stream, 'data') as Promise<[Item]>;
  await listening;
  const producer = await s.producer();
  await producer.ingest(numbered(1, 2), { delaySeconds: 2 });
  await producer.ingest(numbered(1, 1), { delaySeconds: 1 });
  const [one] = await within(5_000, 'the first', first);
  expect(one.payload.n).toBe(1);
  expect(Date.now() - one.enqueuedAt.getTime()).toBeGreaterThanOrEqual(999);
  expect(Date.now() - one.enqueuedAt.getTime()).toBeLessThan(1_500);
  const [two] = (await within(5_000, 'the second', once(stream, 'data'))) as [Item];
  expect(two.payload.n).toBe(2);
  stream.destroy();
});

test('a lease of ours that expires comes back on time, with nothing to announce it', async () => {
  const s = await scenario(PATIENT);
  await (await s.producer()).ingest(numbered(1));
  await (await s.consumer()).dequeue({ lockSeconds: 1 });
  const consumer = await s.consumer();
  for await (const message of consumer.messages()) {
    expect(message.readCount).toBe(2);
    break;
  }
});

test.each(['claim_messages', 'next_due'])('a wake in the middle of a %s is not missed', async (statement) => {
  const s = await scenario();
  const { sluice, answered } = await spied(s, PATIENT);
  const consumer = await sluice.consumer('work');
  const producer = await s.producer();
  const channel = channelOf(s.schema, s.queue.id);
  const client = await s.pool.connect();
  let heard = 0;
  client.on('notification', () => heard++);
  await client.query(`listen ${channel}`);
  const listening = once(consumer, 'listening');
  const stream = consumer.messages<{ n: number }>();
  const message = once(stream, 'data') as Promise<[Item]>;
  await listening;
  // The answer is on its way when the message is committed and announced: it does not know of it.
  answered(statement, async () => {
    await producer.ingest(numbered(1));
    await producer.close(); // with its last notification
    await eventually('the notification', () => heard === 2);
  });
  await client.query(`select pg_notify('${channel}', '')`);
  expect((await within(5_000, 'the message', message))[0].payload.n).toBe(0);
  client.release(true);
  stream.destroy();
});

test('no more than the prefetch is leased and unread', async () => {
  const s = await scenario();
  await (await s.producer()).ingest(numbered(300));
  const consumer = await s.consumer();
  let read = 0;
  for await (const message of consumer.messages({ prefetch: 20 })) {
    read++;
    if (read % 10 === 0) expect((await leased(s)) - read).toBeLessThanOrEqual(20);
    if (message.readCount > 1 || read === 100) break;
  }
  expect(read).toBe(100);
  expect(await leased(s)).toBe(100);
  expect(await readCounts(s)).toEqual([...Array<number>(100).fill(1), ...Array<number>(200).fill(0)]);
});

test.each(['break', 'destroy', 'abort'] as const)(
  'after %s unread messages come again, in their old order and not counted',
  async (way) => {
    const s = await scenario();
    await (await s.producer()).ingest(numbered(50), { batchSize: 10 });
    const consumer = await s.consumer();
    const controller = new AbortController();
    const stream = consumer.messages<{ n: number }>({ prefetch: 40, signal: controller.signal });
    const got: number[] = [];
    const reading = (async () => {
      for await (const { payload } of stream) {
        got.push(payload.n);
        if (got.length < 5) continue;
        if (way === 'break') break;
        if (way === 'destroy') stream.destroy();
        if (way === 'abort') controller.abort(new Error('enough'));
      }
    })();
    if (way === 'abort') {
      await expect(reading).rejects.toMatchObject({ name: 'AbortError', cause: { message: 'enough' } });
    } else
      await within(
        5_000,
        'the reader',
        reading.catch(() => undefined),
      );
    if (!stream.closed) await once(stream, 'close');
    expect(got).toEqual([0, 1, 2, 3, 4]);
    expect(await leased(s)).toBe(5);
    const again = await consumer.dequeueMany<{ n: number }>(100);
    expect(again.map(({ payload }) => payload.n)).toEqual([...numbered(45, 5)].map(({ n }) => n));
    expect(new Set(again.map(({ readCount }) => readCount))).toEqual(new Set([1]));
  },
);

test('several streams on one consumer share its messages', async () => {
  const s = await scenario();
  const consumer = await s.consumer();
  const got: number[] = [];
  const reading = [1, 7, 50].map(async (prefetch) => {
    const stream = consumer.messages<{ n: number }>({ prefetch });
    stream.on('data', ({ payload }: Item) => {
      got.push(payload.n);
    });
    await once(stream, 'close');
  });
  await (await s.producer()).ingest(numbered(500), { batchSize: 50 });
  await eventually('all of them', () => got.length >= 500);
  await consumer.close();
  await within(5_000, 'the streams', Promise.all(reading));
  expect(got.toSorted((a, b) => a - b)).toEqual([...numbered(500)].map(({ n }) => n));
});

test('closing the consumer ends its streams and gives back what nobody read', async () => {
  const s = await scenario();
  await (await s.producer()).ingest(numbered(30));
  const consumer = await s.consumer();
  const stream = consumer.messages({ prefetch: 30 });
  stream.on('readable', () => undefined);
  await eventually('a full prefetch', async () => (await leased(s)) === 30);
  await within(5_000, 'close', consumer.close());
  expect(stream.closed).toBe(true);
  expect(await leased(s)).toBe(0);
  expect(new Set(await readCounts(s))).toEqual(new Set([0]));
});

test('many consumers and streams on one connection cause no warning', async () => {
  const s = await scenario();
  const warnings: Error[] = [];
  const onWarning = (warning: Error) => warnings.push(warning);
  process.on('warning', onWarning);
  const consumers = await Promise.all(Array.from({ length: 15 }, () => s.consumer()));
  for (const consumer of consumers) consumer.messages().resume();
  await Promise.all(consumers.map((consumer) => once(consumer, 'listening')));
  await Promise.all(consumers.map((consumer) => consumer.close()));
  await new Promise((resolve) => setImmediate(resolve));
  process.off('warning', onWarning);
  expect(warnings).toEqual([]);
});

test.each(['take one and close', 'close while waiting', 'just register'])(
  'a process ends by itself: %s',
  async (role) => {
    const s = await scenario();
    if (role === 'take one and close') await (await s.producer()).ingest(numbered(3));
    const child = startChild('child-consumer.ts', role, s.url, s.schema);
    expect(await child.exit()).toBe(0);
    await eventually('its leases are back', async () => (await leased(s)) === 0);
  },
);
