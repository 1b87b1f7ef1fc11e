import { once } from 'node:events';
import { expect, test } from 'vitest';
import type { Consumer, Failure, RunSummary } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { row, silence } from '../support/worker-rows.js';
import { enqueued } from './consumer-api.js';
import { stored } from './producer-api.js';

const archived = async (s: Scenario) => (await s.sluice.admin.queueMetrics('work')).archived;

/** The end of a run whose consumer is being closed. */
async function ended(consumer: Consumer, run: Promise<RunSummary>): Promise<RunSummary> {
  await within(10_000, 'closing', consumer.close());
  return within(10_000, 'the run', run);
}

test('39: a handler gets one message after the other in their order, and what it was done with is archived', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 10);
  const consumer = await s.consumer();
  const seen: string[] = [];
  const run = consumer.run(({ id }) => void seen.push(id), { concurrency: 1 });
  await eventually('all of them archived', async () => (await archived(s)) === 10);
  expect(await ended(consumer, run)).toEqual({ done: 10, retried: 0, dead: 0, lost: 0, released: 0 });
  expect(seen).toEqual(ids);
});

test('39: a handler of batches gets no more than the batch’s size at once, in order', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 10);
  const consumer = await s.consumer();
  const batches: string[][] = [];
  const run = consumer.runBatch((messages) => void batches.push(messages.map(({ id }) => id)), {
    batchSize: 4,
  });
  await eventually('all of them archived', async () => (await archived(s)) === 10);
  expect((await ended(consumer, run)).done).toBe(10);
  expect(batches.flat()).toEqual(ids);
  expect(Math.max(...batches.map((batch) => batch.length))).toBe(4);
});

test('39: two consumers share what is there; suspended elsewhere they rest, resumed they go on (deviation)', async () => {
  const s = await scenario();
  await enqueued(s, 40);
  const options = { heartbeatIntervalSeconds: 0.05 };
  const [one, two] = [await s.consumer(options), await s.consumer(options)];
  const counts = new Map<string, number>();
  const runs = [one, two].map((consumer) =>
    consumer.run(({ id }) => void counts.set(id, (counts.get(id) ?? 0) + 1), { concurrency: 3 }),
  );
  await eventually('all of them archived', async () => (await archived(s)) === 40);
  const seen = [one, two].map((consumer) => once(consumer, 'status'));
  for (const { workerId } of [one, two]) await s.sluice.admin.worker(workerId).suspend();
  await within(10_000, 'both to see it', Promise.all(seen));
  const [late] = await enqueued(s, 1);
  for (const { workerId } of [one, two]) {
    await silence(s, workerId, 600);
    await eventually('a beat', async () => (await row(s, workerId))!.age < 60);
  }
  expect((await stored(s)).at(-1)).toMatchObject({ id: late, readCount: 0 });
  await s.sluice.admin.worker(one.workerId).resume();
  await eventually('the last one archived', async () => (await archived(s)) === 41);
  const summaries = await Promise.all([ended(one, runs[0]!), ended(two, runs[1]!)]);
  expect(summaries[0].done + summaries[1].done).toBe(41);
  expect(counts.size).toBe(41);
  expect([...counts.values()].every((count) => count === 1)).toBe(true);
  for (const { workerId } of [one, two]) expect((await row(s, workerId))!.status).toBe('stopped');
});

test('40: a message whose handler fails goes back with a pause, and the run goes on (deviation)', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 3);
  const consumer = await s.consumer({ backoff: 0 });
  const failures: Failure[] = [];
  consumer.on('failed', (failure) => void failures.push(failure));
  const boom = new Error('boom');
  const run = consumer.run(
    ({ id, readCount }) => {
      if (id === ids[1] && readCount === 1) throw boom;
    },
    { concurrency: 1 },
  );
  await eventually('all of them archived', async () => (await archived(s)) === 3);
  expect(await ended(consumer, run)).toMatchObject({ done: 3, retried: 1, dead: 0 });
  expect(failures).toHaveLength(1);
  expect(failures[0]).toMatchObject({
    message: { id: ids[1] },
    error: boom,
    retrySeconds: 0,
    deadReason: undefined,
  });
  expect((await stored(s)).map(({ readCount }) => readCount)).toEqual([1, 2, 1]);
});

test('40: the pauses between the attempts of a message double, with jitter, up to a maximum (deviation)', async () => {
  const s = await scenario();
  const [id] = await enqueued(s, 1);
  const consumer = await s.consumer({ backoff: { baseSeconds: 100, maxSeconds: 300 }, maxReadCount: 10 });
  for (const longest of [100, 200, 300, 300]) {
    await (await consumer.dequeue())!.fail(new Error('boom'));
    const { rows } = await s.pool.query<{ wait: number }>(
      `select extract(epoch from vt - now())::float8 as wait from ${s.schema}.pgqrs_messages`,
    );
    expect(rows[0]!.wait).toBeLessThanOrEqual(longest);
    expect(rows[0]!.wait).toBeGreaterThan(longest / 2 - 30);
    expect((await stored(s))[0]).toMatchObject({ id, consumerWorkerId: null });
    await s.pool.query(`update ${s.schema}.pgqrs_messages set vt = now()`);
  }
});

test('40: as long as its handler runs a message stays its own, however short the lease is (deviation)', async () => {
  const s = await scenario();
  await enqueued(s, 1);
  const [consumer, other] = [await s.consumer(), await s.consumer()];
  let leave = () => {};
  const left = new Promise<void>((resolve) => (leave = resolve));
  let began = 0;
  const run = consumer.run(() => (began++, left), { lockSeconds: 0.3 });
  await eventually('the handler at work', () => began === 1);
  const vt = async () => (await stored(s))[0]!.vt.getTime();
  let until = await vt();
  for (let renewals = 0; renewals < 4; renewals++) {
    await eventually('a renewal', async () => (await vt()) > until);
    until = await vt();
    expect(await other.dequeue()).toBeUndefined();
  }
  leave();
  await eventually('it archived', async () => (await archived(s)) === 1);
  expect(await ended(consumer, run)).toMatchObject({ done: 1, lost: 0 });
  expect(began).toBe(1);
});

test('40: a handler learns when its message was taken over, and what it made of it does not count (deviation)', async () => {
  const s = await scenario();
  await enqueued(s, 1);
  const [consumer, other] = [await s.consumer(), await s.consumer()];
  const lost = once(consumer, 'leaseLost');
  let reason: unknown;
  const run = consumer.run(
    (_message, { signal }) =>
      new Promise<void>((resolve) => {
        signal.addEventListener('abort', () => {
          reason = signal.reason;
          resolve();
        });
      }),
    { lockSeconds: 0.5 },
  );
  await eventually('the handler at work', async () => (await stored(s))[0]!.readCount === 1);
  const { rows } = await s.pool.query<{ id: string }>(
    `update ${s.schema}.pgqrs_messages set consumer_worker_id = $1, read_ct = 2 returning id::text`,
    [other.workerId],
  );
  await within(10_000, 'the loss to be told', lost);
  expect(reason).toMatchObject({ code: 'LEASE_LOST', messageId: rows[0]!.id });
  expect(await ended(consumer, run)).toMatchObject({ done: 0, lost: 1 });
  expect(await other.archive(rows[0]!.id)).toBe(true);
});

test('40: a consumer’s heart beats while its handlers are at work, so nobody takes it for dead (deviation)', async () => {
  const s = await scenario();
  await enqueued(s, 1);
  const consumer = await s.consumer({ heartbeatIntervalSeconds: 0.05 });
  let leave = () => {};
  const left = new Promise<void>((resolve) => (leave = resolve));
  const run = consumer.run(() => left);
  await eventually('the handler at work', async () => (await stored(s))[0]!.readCount === 1);
  for (let beat = 0; beat < 3; beat++) {
    await silence(s, consumer.workerId, 600);
    await eventually('a beat', async () => (await row(s, consumer.workerId))!.age < 60);
  }
  expect(await s.sluice.admin.reclaim()).toEqual({ workers: [], messages: 0 });
  leave();
  expect(await ended(consumer, run)).toMatchObject({ done: 1 });
});

test('40: a message that was claimed ahead goes back uncounted when its run ends (deviation)', async () => {
  const s = await scenario();
  const ids = await enqueued(s, 5);
  const consumer = await s.consumer();
  let leave = () => {};
  const left = new Promise<void>((resolve) => (leave = resolve));
  const run = consumer.run(() => left, { concurrency: 1, prefetch: 4 });
  await eventually('all of them claimed', async () =>
    (await stored(s)).every(({ readCount }) => readCount === 1),
  );
  const closing = ended(consumer, run);
  leave();
  await closing;
  const again = await (await s.consumer()).dequeueMany(10);
  expect(again.map(({ id, readCount }) => [id, readCount])).toEqual(ids.slice(1).map((id) => [id, 1]));
});
