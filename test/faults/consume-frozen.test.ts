import { expect, onTestFinished, test } from 'vitest';
import type { Message } from '../../src/index.js';
import { type Child, startChild } from '../support/child-process.js';
import type { WorkerNews, WorkerOrders } from '../support/child-worker.js';
import { eventually, within } from '../support/eventually.js';
import { numbered, scenario } from '../support/scenario.js';
import { FULL } from '../support/total-queue.js';

const LOCK_SECONDS = 1;

async function frozenWorker(by: WorkerOrders['by']) {
  const s = await scenario({ maxReadCount: 100 });
  for (const table of ['effects', 'accepted', 'refused'])
    await s.pool.query(`create table ${s.schema}.${table} (n int, worker bigint, read_ct int)`);
  await (await s.producer()).ingest(numbered(1));
  const orders = { by, lockSeconds: LOCK_SECONDS, concurrency: 1, prefetch: 1, gated: true };
  const child: Child = startChild('child-worker.ts', s.url, s.schema, JSON.stringify(orders));
  onTestFinished(() => void child.process.kill('SIGCONT'));
  expect(await child.next()).toEqual({ up: true });
  child.process.send('go');
  const { worker } = (await child.next()) as WorkerNews;
  expect(await child.next()).toEqual({ handling: 0 });
  child.process.kill('SIGSTOP');

  const other = await s.consumer();
  const [taken] = await eventually('the lease to end', async () => {
    const messages = await other.dequeueMany(1);
    return messages.length > 0 ? messages : undefined;
  });
  return { s, child, worker, taken: taken as Message };
}

const NOTHING = { done: 0, retried: 0, dead: 0, lost: 0, released: 0 };

const CASES = [
  { by: 'run', stillHeld: true, ended: { ...NOTHING, lost: 1 } },
  { by: 'transaction', stillHeld: false, ended: { ...NOTHING, lost: 1 } },
  { by: 'messages', stillHeld: true, ended: { yes: 0, no: 1, unknown: 0 } },
  { by: 'run', stillHeld: false, ended: { ...NOTHING, lost: 1 } },
  { by: 'transaction', stillHeld: true, ended: { ...NOTHING, lost: 1 } },
  { by: 'messages', stillHeld: false, ended: { yes: 0, no: 1, unknown: 0 } },
] as const;

test.each(FULL ? CASES : CASES.slice(0, 3))(
  'a worker ($by) is frozen until another one has its message (still: $stillHeld): what it says later counts for nothing',
  async ({ by, stillHeld, ended }) => {
    const { s, child, worker, taken } = await frozenWorker(by);
    expect(taken.readCount).toBe(2);
    if (!stillHeld) expect(await taken.archive()).toBe(true);
    child.process.kill('SIGCONT');
    child.process.send('finish');
    await eventually(
      'its late word',
      async () => (await s.pool.query(`select from ${s.schema}.refused`)).rowCount === 1,
    );
    child.process.kill('SIGTERM');
    expect(await child.next()).toEqual({ ended });
    expect(await child.exit()).toBe(0);

    const { rows: refused } = await s.pool.query(`select n, worker::text, read_ct from ${s.schema}.refused`);
    expect(refused).toEqual([{ n: 0, worker, read_ct: 1 }]);
    if (stillHeld) expect(await taken.archive()).toBe(true);
    const { rows } = await s.pool.query(
      `select consumer_worker_id::text as worker, read_ct, archived_at is not null as done from ${s.schema}.pgqrs_messages`,
    );
    expect(rows).toEqual([{ worker: taken.consumerWorkerId, read_ct: 2, done: true }]);
    const effects = await s.pool.query(`select from ${s.schema}.effects`);
    // A transaction that comes too late leaves nothing behind.
    expect(effects.rowCount).toBe(by === 'transaction' ? 0 : 1);
  },
);

test('a worker that has claimed its own expired message again cannot settle the older delivery', async () => {
  const s = await scenario();
  await (await s.producer()).ingest(numbered(3));
  const consumer = await s.consumer();
  const older = await consumer.dequeueMany(3, { lockSeconds: 0 });
  const newer = await consumer.dequeueMany(3);
  expect(newer.map(({ id, readCount }) => [id, readCount])).toEqual(older.map(({ id }) => [id, 2]));
  const [one, two, three] = older as [Message, Message, Message];
  expect(await Promise.all([one.archive(), two.delete(), three.release()])).toEqual([false, false, false]);
  expect(await one.fail(new Error('too late'))).toBe(false);
  expect(await one.extendVisibility(60)).toBe(false);
  expect(await Promise.all(newer.map((message) => message.archive()))).toEqual([true, true, true]);
});

test('a handler that outlives its lease ten times over has its message alone, and to the end', async () => {
  const s = await scenario();
  const lockSeconds = 0.3;
  await (await s.producer()).ingest(numbered(4));
  const deliveries: string[] = [];
  const runs = await Promise.all(
    [1, 2].map(async () => {
      const consumer = await s.consumer({ pollIntervalMs: 20 });
      const stop = new AbortController();
      const began = performance.now();
      const outlived = () => performance.now() > began + 10 * lockSeconds * 1_000;
      const done = consumer.run(
        async ({ id, readCount }, { signal }) => {
          deliveries.push(`${id}:${readCount}`);
          await eventually('ten leases', outlived);
          expect(signal.aborted).toBe(false);
        },
        // The one that waits in each of them is kept as well.
        { concurrency: 1, prefetch: 1, lockSeconds, signal: stop.signal },
      );
      return { done, stop };
    }),
  );
  await eventually('all of them', async () => {
    const { rowCount } = await s.pool.query(
      `select from ${s.schema}.pgqrs_messages where archived_at is not null`,
    );
    return rowCount === 4;
  });
  for (const { stop } of runs) stop.abort();
  const summaries = await within(10_000, 'the ends', Promise.all(runs.map(({ done }) => done)));
  expect(summaries.map(({ done }) => done).reduce((sum, n) => sum + n)).toBe(4);
  expect(new Set(deliveries).size).toBe(4);
  expect(deliveries.every((one) => one.endsWith(':1'))).toBe(true);
});
