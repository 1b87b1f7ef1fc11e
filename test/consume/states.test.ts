import { once } from 'node:events';
import { expect, test } from 'vitest';
import { channelOf } from '../../src/doorbell.js';
import { deferred } from '../../src/deferred.js';
import { type Consumer, WorkerFencedError } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';
import { setStatus } from '../support/worker-rows.js';
import { enqueue, leased, open, PATIENT, running, stored, summary } from './support.js';

/** A run that waits for messages, and hears of them. */
async function waiting() {
  const s = await scenario();
  const spy = await spied(s, { pollIntervalMs: 3_600_000 });
  const consumer = await spy.sluice.consumer('work', PATIENT);
  const listening = once(consumer, 'listening');
  const handled: number[] = [];
  const run = running(consumer, ({ payload }) => void handled.push(payload.n));
  await within(5_000, 'listening', listening);
  await eventually('a look', () => spy.count('next_due') > 0);
  return { s, ...spy, consumer, handled, run };
}

async function pause({ pool, schema, queue }: Scenario, paused: boolean): Promise<void> {
  await pool.query(
    `insert into ${schema}.sluice_queues (queue_id, paused_at) values ($1, case when $2 then now() end)
     on conflict (queue_id) do update set paused_at = excluded.paused_at`,
    [queue.id, paused],
  );
}

const ring = ({ pool, schema, queue }: Scenario) =>
  pool.query('select pg_notify($1, $2)', [channelOf(schema, queue.id), '']);

test('a run of a suspended consumer claims nothing, and goes on when it is resumed', async () => {
  const { s, consumer, handled, run } = await waiting();
  await consumer.suspend();
  await enqueue(s, 3);
  const other = await s.consumer();
  await eventually('the messages', async () => (await stored(s)).length === 3);
  expect((await other.dequeueMany(1)).length).toBe(1);
  expect(handled).toEqual([]);
  await consumer.resume();
  await eventually('the rest', () => handled.length === 2);
  expect(await run.stop()).toEqual(summary({ done: 2 }));
});

test('a run can begin while its consumer is suspended', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer(PATIENT);
  await consumer.suspend();
  const run = running(consumer, () => undefined);
  const ended = await running(consumer, () => expect.unreachable()).stop();
  expect(ended).toEqual(summary({}));
  await consumer.resume();
  await eventually('the message', async () => (await open(s)) === 0);
  expect(await run.stop()).toEqual(summary({ done: 1 }));
});

test('handlers at work when the consumer is suspended end in order', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer(PATIENT);
  const gate = deferred();
  const run = running(consumer, () => gate.promise);
  await eventually('the handler', async () => (await leased(s)) === 1);
  await consumer.suspend();
  gate.resolve();
  await eventually('its end', async () => (await open(s)) === 0);
  expect(await run.stop()).toEqual(summary({ done: 1 }));
  await consumer.shutdown();
});

const ends: Record<string, { code: string; end: (s: Scenario, consumer: Consumer) => Promise<unknown> }> = {
  'is fenced': {
    code: 'WORKER_FENCED',
    end: async (s, consumer) => {
      await s.sluice.admin.deleteWorker(consumer.workerId);
      await consumer.heartbeat().catch(() => undefined);
    },
  },
  'shuts down': {
    code: 'CLOSED',
    end: async (_s, consumer) => {
      await consumer.suspend();
      await consumer.shutdown();
    },
  },
  'was shut down elsewhere': {
    code: 'CLOSED',
    end: async (s, consumer) => {
      await setStatus(s, consumer.workerId, 'stopped');
      await consumer.heartbeat();
    },
  },
};

test.each(Object.entries(ends))(
  'a run that waits fails when its consumer %s',
  async (_what, { code, end }) => {
    const { s, consumer, run } = await waiting();
    await end(s, consumer);
    await expect(within(5_000, 'the end', run.ended)).rejects.toMatchObject({ code });
    await expect(consumer.run(() => undefined)).rejects.toMatchObject({ code });
  },
);

test('a run whose worker was taken over tells its handlers, and lets its messages go', async () => {
  const s = await scenario();
  await enqueue(s, 6);
  const consumer = await s.consumer(PATIENT);
  const reasons: unknown[] = [];
  const gate = deferred();
  const run = running(
    consumer,
    async ({ payload: { n } }, { signal }) => {
      if (n === 0) return gate.promise;
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      reasons.push(signal.reason);
      throw signal.reason;
    },
    { concurrency: 2, prefetch: 2 },
  );
  await eventually('all that may be held', async () => (await leased(s)) === 4);
  await s.pool.query(`update ${s.schema}.pgqrs_workers set started_at = now() where id = $1`, [
    consumer.workerId,
  ]);
  gate.resolve(); // room: the next claim finds out
  await expect(within(8_000, 'the end', run.ended)).rejects.toThrow(WorkerFencedError);
  expect(reasons.length).toBeGreaterThan(0);
  for (const reason of reasons) expect(reason).toBeInstanceOf(WorkerFencedError);
  await eventually('free messages', async () => (await leased(s)) === 0);
  expect(await open(s)).toBe(5);
});

test('a paused queue is not claimed from, and costs nothing; its doorbell after the end of the pause brings all', async () => {
  const { s, count, handled, run } = await waiting();
  await pause(s, true);
  await enqueue(s, 5);
  const claims = () => count('claim_messages');
  await eventually('a claim that finds nothing', () => claims() > 1);
  const before = claims();
  // Every ring is a claim and a look, and no more: what is due is no reason to hurry.
  for (let rings = 1; rings <= 20; rings++) {
    const last = claims();
    await ring(s);
    await eventually('the next claim', () => claims() > last);
  }
  expect(claims() - before).toBeLessThan(25);
  expect(count('next_due')).toBeLessThanOrEqual(claims());
  expect(handled).toEqual([]);
  await pause(s, false);
  await ring(s);
  await eventually('all of them', () => handled.length === 5);
  expect(await run.stop()).toEqual(summary({ done: 5 }));
  expect((await stored(s)).every(({ readCount }) => readCount === 1)).toBe(true);
});

test('a pause stops claims, not handlers; dequeueMany() finds nothing either', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  const consumer = await s.consumer(PATIENT);
  const gate = deferred();
  const run = running(consumer, () => gate.promise, { concurrency: 1, prefetch: 0 });
  await eventually('the handler', async () => (await leased(s)) === 1);
  await pause(s, true);
  expect(await consumer.dequeueMany(10)).toEqual([]);
  gate.resolve();
  await eventually('its end', async () => (await open(s)) === 2);
  expect(await run.stop()).toEqual(summary({ done: 1 }));
  await pause(s, false);
  expect(await consumer.dequeueMany(10)).toHaveLength(2);
});
