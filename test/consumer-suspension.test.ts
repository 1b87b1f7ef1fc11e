import { once } from 'node:events';
import { expect, test } from 'vitest';
import { channelOf } from '../src/doorbell.js';
import {
  ClosedError,
  type Consumer,
  type Message,
  WorkerFencedError,
  WorkerHasPendingMessagesError,
  WorkerSuspendedError,
} from '../src/index.js';
import { eventually, within } from './support/eventually.js';
import { numbered, scenario, type Scenario } from './support/scenario.js';
import { spied } from './support/spied.js';
import { setStatus, silence } from './support/worker-rows.js';

type Item = Message<{ n: number }>;

/** What would be polled only once in an hour. */
const PATIENT = { pollIntervalMs: 3_600_000 };

async function enqueue(s: Scenario, count: number, from = 0): Promise<void> {
  const producer = await s.producer();
  await producer.ingest(numbered(count, from));
  await producer.close(); // with its last notification
}

async function leased({ pool, schema }: Scenario): Promise<number> {
  const { rows } = await pool.query<{ count: number }>(
    `select count(*)::int as count from ${schema}.pgqrs_messages where consumer_worker_id is not null and archived_at is null`,
  );
  return rows[0]!.count;
}

test('a suspended consumer claims nothing, and settles what it holds', async () => {
  const s = await scenario();
  await enqueue(s, 6);
  const consumer = await s.consumer();
  const [a, b, c, d] = (await consumer.dequeueMany(4)) as [Message, Message, Message, Message];
  await consumer.suspend();
  await expect(consumer.dequeue()).rejects.toThrow(WorkerSuspendedError);
  await expect(consumer.dequeueMany(10)).rejects.toMatchObject({
    code: 'WORKER_SUSPENDED',
    worker: consumer.workerName,
    status: 'suspended',
  });
  expect(await a.archive()).toBe(true);
  expect(await b.delete()).toBe(true);
  expect(await c.release()).toBe(true);
  expect(await d.extendVisibility(10)).toBe(true);
  expect(await consumer.archive(d.id)).toBe(true);
  await consumer.resume();
  expect(await consumer.dequeueMany(10)).toHaveLength(3);
});

test('limits are checked before the state is', async () => {
  const s = await scenario();
  const consumer = await s.consumer();
  await consumer.suspend();
  await expect(consumer.dequeueMany(0)).rejects.toThrow('limit');
  await expect(consumer.dequeue({ lockSeconds: -1 })).rejects.toThrow('lockSeconds');
  expect(() => consumer.messages({ prefetch: 0 })).toThrow('prefetch');
});

test('a suspension or an interruption elsewhere counts from the next heartbeat on', async () => {
  const s = await scenario();
  const consumer = await s.consumer({ heartbeatIntervalSeconds: 0.05 });
  for (const status of ['suspended', 'interrupted'] as const) {
    const told = once(consumer, 'status');
    await setStatus(s, consumer.workerId, status);
    await within(5_000, status, told);
    await expect(consumer.dequeue()).rejects.toThrow(WorkerSuspendedError);
    const back = once(consumer, 'status');
    await setStatus(s, consumer.workerId, 'polling');
    await within(5_000, 'polling', back);
    expect(await consumer.dequeue()).toBeUndefined();
  }
});

test('a stream that is opened while its consumer is suspended begins when that is resumed', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  const { sluice, count } = await spied(s, { pollIntervalMs: 5 });
  const consumer = await sluice.consumer('work', { heartbeatIntervalSeconds: 0.02 });
  await consumer.suspend();
  const stream = consumer.messages<{ n: number }>();
  const got: number[] = [];
  stream.on('data', ({ payload }: Item) => got.push(payload.n));
  // Time for many polls, as heartbeats tell it.
  for (let beat = 0; beat < 3; beat++) {
    await silence(s, consumer.workerId, 1_000);
    await eventually('a beat', () => consumer.isHealthy({ seconds: 10 }));
  }
  expect(count('claim_messages')).toBe(0);
  await consumer.resume();
  await eventually('all three', () => got.length === 3);
  expect(got).toEqual([0, 1, 2]);
  stream.destroy();
});

test('a stream that waits for messages claims none of those that come during a suspension', async () => {
  const s = await scenario();
  const { sluice, count } = await spied(s, PATIENT);
  const consumer = await sluice.consumer('work');
  const listening = once(consumer, 'listening');
  const stream = consumer.messages<{ n: number }>({ prefetch: 10 });
  const got: number[] = [];
  stream.on('data', ({ payload }: Item) => got.push(payload.n));
  await listening;
  await enqueue(s, 1);
  await eventually('the first', () => got.length === 1);
  await consumer.suspend();

  const client = await s.pool.connect();
  let heard = 0;
  client.on('notification', () => heard++);
  await client.query(`listen ${channelOf(s.schema, s.queue.id)}`);
  // Each claim that comes back short is followed by a look for what is due: none is under way any more.
  await eventually('a quiet stream', () => count('claim_messages') === count('next_due'));
  const claims = count('claim_messages');
  await enqueue(s, 2, 1);
  await eventually('the notification', () => heard > 0);
  client.release(true);
  for (let trip = 0; trip < 20; trip++) await consumer.heartbeat();
  expect(await leased(s)).toBe(1);
  expect(count('claim_messages')).toBe(claims);
  // It goes on at once: no notification comes any more, and no poll.
  await consumer.resume();
  await eventually('all three', () => got.length === 3);
  expect(got).toEqual([0, 1, 2]);
  stream.destroy();
});

test('what was claimed before the suspension is still read, and nothing more', async () => {
  const s = await scenario();
  await enqueue(s, 30);
  const consumer = await s.consumer(PATIENT);
  const read: number[] = [];
  const stream = consumer.messages<{ n: number }>({ prefetch: 10 });
  for await (const message of stream) {
    read.push(message.payload.n);
    await message.archive();
    if (read.length === 1) {
      await consumer.suspend();
      // Perhaps one claim was on its way.
      void eventually('all that was claimed', async () => (await leased(s)) === 0).then(() =>
        stream.destroy(),
      );
    }
  }
  expect(read.length).toBeLessThanOrEqual(20);
  await consumer.shutdown();
});

/** A stream that waits: until it is resumed, or for a message that would be looked for in an hour. */
const waits: Record<string, (consumer: Consumer) => Promise<void>> = {
  'until it is resumed': (consumer) => consumer.suspend(),
  'for messages': () => Promise.resolve(),
};

async function waiting(how: string, signal?: AbortSignal) {
  const s = await scenario();
  const { sluice, count } = await spied(s, PATIENT);
  const consumer = await sluice.consumer('work', { heartbeatIntervalSeconds: 3_600 });
  await waits[how]!(consumer);
  const listening = once(consumer, 'listening');
  const stream = consumer.messages(signal ? { signal } : {}).on('data', () => expect.unreachable());
  await within(5_000, 'listening', listening);
  if (how === 'for messages') await eventually('a look', () => count('next_due') > 0);
  const errors: Error[] = [];
  stream.on('error', (error) => errors.push(error));
  const closed = new Promise((resolve) => stream.once('close', resolve));
  return { s, consumer, stream, errors, closed };
}

const patience = Object.keys(waits);

test.each(patience)('a stream that waits %s ends at once on destroy, close() and abort', async (how) => {
  const destroyed = await waiting(how);
  destroyed.stream.destroy();
  await within(2_000, 'destroy', destroyed.closed);
  expect(destroyed.errors).toEqual([]);

  const closed = await waiting(how);
  await within(2_000, 'close()', closed.consumer.close());
  await closed.closed;
  expect(closed.errors).toEqual([]);

  const controller = new AbortController();
  const aborted = await waiting(how, controller.signal);
  controller.abort(new Error('enough'));
  await within(2_000, 'abort', aborted.closed);
  expect(aborted.errors).toMatchObject([{ name: 'AbortError', cause: { message: 'enough' } }]);
});

test.each(patience)('a stream that waits %s fails when its consumer is fenced or shut down', async (how) => {
  const fenced = await waiting(how);
  await fenced.s.sluice.admin.deleteWorker(fenced.consumer.workerId);
  await fenced.consumer.heartbeat().catch(() => undefined);
  await within(2_000, 'the take-over', fenced.closed);
  expect(fenced.errors).toHaveLength(1);
  expect(fenced.errors[0]).toBeInstanceOf(WorkerFencedError);

  const down = await waiting(how);
  if (how === 'for messages') await down.consumer.suspend();
  await down.consumer.shutdown();
  await within(2_000, 'the shutdown', down.closed);
  expect(down.errors).toHaveLength(1);
  expect(down.errors[0]).toBeInstanceOf(ClosedError);

  const elsewhere = await waiting(how);
  await setStatus(elsewhere.s, elsewhere.consumer.workerId, 'stopped');
  await elsewhere.consumer.heartbeat();
  await within(2_000, 'the end elsewhere', elsewhere.closed);
  expect(elsewhere.errors[0]).toBeInstanceOf(ClosedError);
});

test('shutdown() is refused while messages are held, whatever state and leases say', async () => {
  const s = await scenario();
  await enqueue(s, 5);
  const consumer = await s.consumer({ heartbeatIntervalSeconds: 3_600 });
  const messages = await consumer.dequeueMany(4);
  await messages[0]!.archive();
  // A lease that is over counts too.
  await s.pool.query(`update ${s.schema}.pgqrs_messages set vt = now() where id = $1`, [messages[1]!.id]);
  for (const status of ['ready', 'polling', 'interrupted', 'suspended', 'stopped'] as const) {
    await setStatus(s, consumer.workerId, status);
    const error = await consumer.shutdown().then(
      () => expect.unreachable(status),
      (error: unknown) => error,
    );
    expect(error).toBeInstanceOf(WorkerHasPendingMessagesError);
    expect(error).toMatchObject({
      code: 'WORKER_HAS_PENDING_MESSAGES',
      worker: consumer.workerName,
      count: 3,
    });
    expect(await consumer.status()).toBe(status);
  }
  await setStatus(s, consumer.workerId, 'ready');
  expect(await consumer.releaseMany(messages.slice(1))).toEqual([true, true, true]);
  // Now the state counts.
  await expect(consumer.shutdown()).rejects.toMatchObject({
    code: 'INVALID_STATE_TRANSITION',
    from: 'ready',
  });
  await consumer.suspend();
  await consumer.shutdown();
  expect(await consumer.status()).toBe('stopped');
});

test('shutdown() asks for its own leases only: of its queue, and of this life', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  await s.sluice.admin.createQueue('other');
  const named = { hostname: 'host', port: 1, heartbeatIntervalSeconds: 3_600 };
  const before = await s.consumer(named);
  await before.dequeue();
  await before.close();
  // The same worker, now of another queue, where it holds nothing.
  const now = await s.sluice.consumer('other', named);
  expect(now.workerId).toBe(before.workerId);
  await now.suspend();
  await now.shutdown();

  const zombie = await s.consumer(named);
  await silence(s, zombie.workerId, 1_000_000);
  const heir = await s.consumer(named);
  await heir.dequeue();
  await expect(zombie.shutdown()).rejects.toThrow(WorkerFencedError);
  await expect(heir.shutdown()).rejects.toMatchObject({ count: 2 });
});

test('close() leaves what is held to its lease, as ever', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer();
  const message = (await consumer.dequeue())!;
  await consumer.suspend();
  await consumer.close();
  expect(await message.archive()).toBe(true);
});
