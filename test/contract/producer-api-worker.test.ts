import { once } from 'node:events';
import { expect, test } from 'vitest';
import type { Producer, WorkerInfo, WorkerStatus } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { row, setStatus, silence } from '../support/worker-rows.js';

/** Beats only when it is told to. */
const STILL = { heartbeatIntervalSeconds: 3_600 };

const STATES = ['ready', 'polling', 'suspended', 'interrupted', 'stopped'] as const;
type Action = 'suspend' | 'resume' | 'poll' | 'completePoll' | 'interrupt' | 'shutdown';
const TABLE: Record<Action, [from: readonly WorkerStatus[], to: WorkerStatus, reason: string]> = {
  suspend: [
    ['ready', 'polling', 'interrupted'],
    'suspended',
    'Worker must be Ready, Polling, or Interrupted to suspend',
  ],
  resume: [['suspended'], 'ready', 'Worker must be in Suspended state to resume'],
  poll: [['ready', 'polling'], 'polling', 'Worker must be Ready to start polling'],
  completePoll: [['polling'], 'ready', 'Worker must be in Polling state to complete polling'],
  interrupt: [['polling'], 'interrupted', 'Worker must be in Polling state to be interrupted'],
  shutdown: [['suspended'], 'stopped', 'Worker must be in Suspended state to shutdown'],
};

test('26: a producer goes from state to state by the table, and is told from, to and why where it may not', async () => {
  const s = await scenario();
  for (const [action, [allowed, to, reason]] of Object.entries(TABLE)) {
    for (const from of STATES) {
      const producer = await s.producer(STILL);
      await setStatus(s, producer.workerId, from);
      const moved = producer[action as Action]();
      if (allowed.includes(from)) await moved;
      else await expect(moved).rejects.toMatchObject({ code: 'INVALID_STATE_TRANSITION', from, to, reason });
      expect(await producer.status()).toBe(allowed.includes(from) ? to : from);
      await producer.close();
    }
  }
});

test('26: a producer enqueues while it is ready or polling, and only then (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer(STILL);
  await producer.enqueue(1);
  await producer.poll();
  await producer.enqueue(2);
  const refused = { code: 'WORKER_SUSPENDED', worker: producer.workerName };
  await producer.interrupt();
  await expect(producer.enqueue(3)).rejects.toMatchObject({ ...refused, status: 'interrupted' });
  // As a poller of pgqrs': who is interrupted suspends itself.
  await producer.heartbeat();
  expect(await producer.status()).toBe('suspended');
  await expect(producer.batchEnqueue([3])).rejects.toMatchObject({ ...refused, status: 'suspended' });
  await expect(producer.enqueueDelayed(3, 60)).rejects.toMatchObject(refused);
  await producer.resume();
  await producer.enqueue(3);
  await producer.suspend();
  await producer.shutdown();
  await expect(producer.enqueue(4)).rejects.toMatchObject({ code: 'CLOSED' });
  expect(await s.count()).toBe(3);
});

test('27: admin.worker(id) does the same from outside, and the producer follows', async () => {
  const s = await scenario();
  const producer = await s.producer({ heartbeatIntervalSeconds: 0.05 });
  const handle = s.sluice.admin.worker(producer.workerId);
  const follows = async (change: () => Promise<void>, status: WorkerStatus) => {
    const event = once(producer, 'status');
    await change();
    expect(await within(10_000, status, event)).toEqual([status]);
    expect(await handle.status()).toBe(status);
  };
  expect(handle.workerId).toBe(producer.workerId);
  expect(await handle.info()).toMatchObject({
    id: producer.workerId,
    name: producer.workerName,
    queueId: s.queue.id,
    status: 'ready',
    shutdownAt: null,
  } satisfies Partial<WorkerInfo>);

  await expect(handle.resume()).rejects.toMatchObject({
    code: 'INVALID_STATE_TRANSITION',
    from: 'ready',
    to: 'ready',
    reason: 'Worker must be in Suspended state to resume',
  });
  await follows(() => handle.suspend(), 'suspended');
  await expect(producer.enqueue(1)).rejects.toMatchObject({ code: 'WORKER_SUSPENDED' });
  await follows(() => handle.resume(), 'ready');
  await producer.enqueue(1);
  await follows(() => handle.suspend(), 'suspended');
  await follows(() => handle.shutdown(), 'stopped');
  await expect(producer.enqueue(2)).rejects.toMatchObject({ code: 'CLOSED' });
  expect(await row(s, producer.workerId)).toMatchObject({ status: 'stopped', stopped: true });

  await expect(s.sluice.admin.worker('424242').status()).rejects.toMatchObject({
    code: 'WORKER_NOT_FOUND',
    workerId: '424242',
  });
});

test.each<[way: string, exit: (producer: Producer) => Promise<void>]>([
  [
    'suspend() and shutdown()',
    async (producer) => {
      await producer.suspend();
      await producer.shutdown();
    },
  ],
  ['close()', (producer) => producer.close()],
])(
  '28: after %s the producer is stopped, with the time of it, and its messages are in the queue',
  async (_way, exit) => {
    const s = await scenario();
    const producer = await s.producer();
    const { rows: before } = await s.pool.query<{ now: Date }>('select now()');
    await producer.enqueue(1);
    await exit(producer);
    const stopped = await s.sluice.admin.worker(producer.workerId).info();
    expect(stopped.status).toBe('stopped');
    const { rows: after } = await s.pool.query<{ now: Date }>('select now()');
    expect(stopped.shutdownAt!.getTime()).toBeGreaterThanOrEqual(before[0]!.now.getTime());
    expect(stopped.shutdownAt!.getTime()).toBeLessThanOrEqual(after[0]!.now.getTime());
    expect((await (await s.consumer()).dequeue())?.producerWorkerId).toBe(producer.workerId);
  },
);

test('29: heartbeat() advances heartbeat_at and turns isHealthy() true', async () => {
  const s = await scenario();
  const producer = await s.producer(STILL);
  await silence(s, producer.workerId, 600);
  expect(await producer.isHealthy({ minutes: 5 })).toBe(false);
  expect(await producer.isHealthy({ minutes: 11 })).toBe(true);
  const before = await s.sluice.admin.worker(producer.workerId).info();
  await producer.heartbeat();
  expect(await producer.isHealthy({ minutes: 5 })).toBe(true);
  const after = await s.sluice.admin.worker(producer.workerId).info();
  expect(after.heartbeatAt.getTime() - before.heartbeatAt.getTime()).toBeGreaterThanOrEqual(600_000);
  expect((await row(s, producer.workerId))!.age).toBeLessThan(10);
});

test('29: a producer’s heart beats by itself, whatever it does (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer({ heartbeatIntervalSeconds: 0.05 });
  for (let beat = 0; beat < 3; beat++) {
    await silence(s, producer.workerId, 600);
    await eventually('a beat', async () => (await row(s, producer.workerId))!.age < 60);
  }
});
