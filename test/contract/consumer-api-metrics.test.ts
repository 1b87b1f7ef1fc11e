import { expect, test } from 'vitest';
import { put } from '../support/dead-messages.js';
import { scenario } from '../support/scenario.js';
import { foreignWorker, setStatus, silence } from '../support/worker-rows.js';
import { enqueued, leaseEnded } from './consumer-api.js';
import { of, stored } from './producer-api.js';

test('43: an empty queue has zeros, and no oldest and newest message', async () => {
  const s = await scenario();
  const nothing = {
    queue: 'work',
    paused: false,
    ready: 0,
    delayed: 0,
    leased: 0,
    dead: 0,
    archived: 0,
    oldestReadyAgeSeconds: null,
    pgqrs: {
      totalMessages: 0,
      pendingMessages: 0,
      lockedMessages: 0,
      archivedMessages: 0,
      oldestPendingMessage: null,
      newestMessage: null,
    },
  };
  expect(await s.sluice.admin.queueMetrics('work')).toEqual(nothing);
  expect(await s.sluice.admin.allQueuesMetrics()).toEqual([nothing]);
});

test('43: pgqrs’ own figures: total with the archive, pending, locked, archived, the oldest and the newest', async () => {
  const s = await scenario();
  await enqueued(s, 10);
  const producer = await s.producer();
  await producer.enqueueDelayed('later', 3_600);
  const consumer = await s.consumer();
  await consumer.archiveMany(await consumer.dequeueMany(3));
  const held = await consumer.dequeueMany(2);
  await leaseEnded(s, 60, held[0]!.id); // locked all the same
  const rows = await stored(s);
  const times = (messages: typeof rows) => messages.map(({ enqueuedAt }) => enqueuedAt.getTime());
  const pending = rows.filter(({ archivedAt, consumerWorkerId }) => !archivedAt && !consumerWorkerId);
  const { pgqrs } = await s.sluice.admin.queueMetrics('work');
  expect(pgqrs).toEqual({
    totalMessages: 11,
    pendingMessages: 6, // the delayed one too
    lockedMessages: 2,
    archivedMessages: 3,
    oldestPendingMessage: new Date(Math.min(...times(pending))),
    newestMessage: new Date(Math.max(...times(rows))),
  });
});

test('43: our own figures count each message in exactly one state (deviation)', async () => {
  const s = await scenario();
  await enqueued(s, 12);
  const producer = await s.producer();
  await producer.batchEnqueue([1, 2], { delaySeconds: 3_600 });
  await put(s, { count: 1, columns: { read_ct: '5' } });
  const consumer = await s.consumer();
  await consumer.archiveMany(await consumer.dequeueMany(3));
  const [expired, buried, ...held] = await consumer.dequeueMany(4);
  await buried!.deadLetter('rejected');
  await leaseEnded(s, 60, expired!.id);
  const found = await s.sluice.admin.queueMetrics('work');
  expect(found).toMatchObject({ ready: 6, delayed: 2, leased: held.length, dead: 2, archived: 3 });
  const { ready, delayed, leased, dead, archived } = found;
  expect(ready + delayed + leased + dead + archived).toBe(found.pgqrs.totalMessages);
});

test('43: all queues and the system at a glance', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  await admin.createQueue('empty');
  await enqueued(s, 3);
  const consumer = await s.consumer();
  await consumer.archiveMany(await consumer.dequeueMany(1));
  const all = await admin.allQueuesMetrics();
  expect(all.map(({ queue, ready, archived }) => [queue, ready, archived])).toEqual([
    ['empty', 0, 0],
    ['work', 2, 1],
  ]);
  expect(await admin.systemStats()).toMatchObject({
    queues: 2,
    ready: 2,
    archived: 1,
    workers: { total: 2, ready: 2, stopped: 0 },
    pgqrs: { totalQueues: 2, totalWorkers: 2, activeWorkers: 2, totalMessages: 2, archivedMessages: 1 },
  });
});

test('43: workers by their status, how many are stale, and how loaded they are', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  await enqueued(s, 2); // by a producer, which counts as a worker
  const [consumer, silent] = [await s.consumer(), await s.consumer({ heartbeatIntervalSeconds: 3_600 })];
  const suspended = await foreignWorker(s, { name: 'pgqrs', queueId: s.queue.id });
  await setStatus(s, suspended, 'suspended');
  await silence(s, silent.workerId, 600);
  await consumer.dequeueMany(2);
  expect(await admin.workerHealthStats({ timeoutSeconds: 300 })).toEqual([
    { queue: null, total: 4, ready: 3, polling: 0, suspended: 1, interrupted: 0, stopped: 0, stale: 1 },
  ]);
  expect(await admin.workerStats('work')).toMatchObject({
    total: 4,
    ready: 3,
    suspended: 1,
    averageMessagesPerWorker: 0.5,
  });
});

test('49: ready is what consumers could take now: nothing delayed, exhausted, held or paused away (deviation)', async () => {
  const s = await scenario();
  const { admin } = s.sluice;
  await put(s, { count: 4 });
  await put(s, { count: 3, columns: { vt: `now() + interval '1 hour'` } });
  await put(s, { count: 2, columns: { read_ct: '5' } });
  const metrics = await admin.queueMetrics('work');
  expect(metrics).toMatchObject({ ready: 4, paused: false, pgqrs: { pendingMessages: 9 } });
  // A pause is told beside it: more workers would take nothing then.
  await admin.pauseQueue('work');
  expect(await admin.queueMetrics('work')).toMatchObject({ ready: 4, paused: true });
  expect(await (await s.consumer()).dequeueMany(10)).toEqual([]);
  await admin.resumeQueue('work');
  const consumer = await s.consumer();
  expect(await consumer.dequeueMany(10)).toHaveLength(4);
  expect(await admin.queueMetrics('work')).toMatchObject({
    ready: 0,
    leased: 4,
    oldestReadyAgeSeconds: null,
  });
});

test('49: how long the first of them has been waiting is told too, by the server’s clock (deviation)', async () => {
  const s = await scenario();
  const [id] = await put(s, { count: 1, columns: { vt: `now() - interval '90 seconds'` } });
  await put(s, { count: 1, columns: { vt: `now() - interval '1 hour'`, read_ct: '5' } });
  const { oldestReadyAgeSeconds } = await s.sluice.admin.queueMetrics('work');
  const age = (await of(s, id!, 'extract(epoch from now() - vt)::float8')) as number;
  expect(oldestReadyAgeSeconds).toBeGreaterThanOrEqual(90);
  expect(oldestReadyAgeSeconds).toBeLessThanOrEqual(age);
});
