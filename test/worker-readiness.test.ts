import { getEventListeners, once } from 'node:events';
import { expect, test } from 'vitest';
import type { Db } from '../src/db.js';
import {
  ClosedError,
  type Consumer,
  type ConsumerOptions,
  WorkerFencedError,
  WorkerSuspendedError,
  type WorkerStatus,
} from '../src/index.js';
import { WorkerHandle } from '../src/worker-handle.js';
import { eventually, within } from './support/eventually.js';
import { scenario, type Scenario } from './support/scenario.js';
import { row, setStatus } from './support/worker-rows.js';

/** What subclasses see of a worker. */
interface Inside {
  db: Db;
  assertReady(): void;
  assertRunning(): void;
  whenReady(signal?: AbortSignal): Promise<void>;
  watchReadiness(watcher: () => void): () => void;
  leave(): void;
}

const STILL = { heartbeatIntervalSeconds: 3_600 };

async function open(s: Scenario, options: ConsumerOptions = STILL) {
  const worker = await s.consumer(options);
  const inside = worker as unknown as Inside;
  return { worker, inside, handle: new WorkerHandle(inside.db, worker.workerId) };
}

/** Whether it has settled: after anything that could have settled it by now. */
async function pending(promise: Promise<unknown>): Promise<boolean> {
  await new Promise((resolve) => setImmediate(resolve));
  const none = Symbol('none');
  return (await Promise.race([promise.catch(() => undefined), Promise.resolve(none)])) === none;
}

test('its own suspension counts when it is done, and its end too', async () => {
  const { worker, inside } = await open(await scenario());
  inside.assertReady();
  await inside.whenReady();
  await worker.poll();
  inside.assertReady();
  await inside.whenReady();
  await worker.completePoll();
  await worker.suspend();
  expect(() => inside.assertReady()).toThrow(WorkerSuspendedError);
  expect(() => inside.assertReady()).toThrow(
    expect.objectContaining({
      code: 'WORKER_SUSPENDED',
      worker: worker.workerName,
      status: 'suspended',
    }) as Error,
  );
  inside.assertRunning();
  await worker.resume();
  inside.assertReady();
  await worker.suspend();
  await worker.shutdown();
  expect(() => inside.assertReady()).toThrow(ClosedError);
  await expect(inside.whenReady()).rejects.toThrow(ClosedError);
});

test.each<[string, (worker: Consumer) => Promise<unknown>]>([
  ['a heartbeat', (worker) => worker.heartbeat()],
  ['status()', (worker) => worker.status()],
  ['isHealthy()', (worker) => worker.isHealthy({ seconds: 1 })],
  ['a refused move', (worker) => worker.completePoll().catch(() => undefined)],
])('a change that was made elsewhere counts when %s shows it', async (_what, look) => {
  const { worker, inside, handle } = await open(await scenario());
  const seen: WorkerStatus[] = [];
  worker.on('status', (status) => seen.push(status));
  await handle.suspend();
  inside.assertReady();
  await look(worker);
  expect(() => inside.assertReady()).toThrow(WorkerSuspendedError);
  const ready = inside.whenReady();
  expect(await pending(ready)).toBe(true);
  await handle.resume();
  await look(worker);
  inside.assertReady();
  await ready;
  await look(worker);
  expect(seen).toEqual(['suspended', 'ready']);
});

test('whoever waits hears of it by the timer alone', async () => {
  const s = await scenario();
  const { worker, inside, handle } = await open(s, { heartbeatIntervalSeconds: 0.05 });
  const suspended = once(worker, 'status');
  await handle.suspend();
  await within(5_000, 'the suspension', suspended);
  const ready = inside.whenReady();
  await handle.resume();
  await within(5_000, 'the resumption', ready);
  // Polling is as good as ready.
  await worker.suspend();
  const polling = inside.whenReady();
  await setStatus(s, worker.workerId, 'polling');
  await within(5_000, 'polling', polling);
});

test('who is interrupted suspends itself at the next heartbeat, and is ready when resumed', async () => {
  const s = await scenario();
  const { worker, inside, handle } = await open(s, { heartbeatIntervalSeconds: 0.05 });
  const seen: WorkerStatus[] = [];
  worker.on('status', (status) => seen.push(status));
  await worker.poll();
  await handle.interrupt();
  await eventually('suspended', async () => (await row(s, worker.workerId))!.status === 'suspended');
  await worker.heartbeat();
  // What it did itself is no news.
  expect(seen).toEqual(['interrupted']);
  const ready = inside.whenReady();
  expect(await pending(ready)).toBe(true);
  await worker.resume();
  await ready;

  // The same where it was its own doing, which no beat reports.
  await worker.poll();
  await worker.interrupt();
  expect(() => inside.assertReady()).toThrow(WorkerSuspendedError);
  await eventually('suspended', async () => (await row(s, worker.workerId))!.status === 'suspended');
  await worker.heartbeat();
  await worker.resume();
  inside.assertReady();
});

test('who was interrupted and is told otherwise before it has suspended itself obeys', async () => {
  const s = await scenario();
  const { worker, inside } = await open(s);
  const { urgent } = inside.db;
  const query = urgent.query.bind(urgent);
  urgent.query = async <R>(text: string, values?: readonly unknown[]) => {
    const answer = await query<R>(text, values);
    // The server has answered "interrupted"; then somebody stops the worker.
    if (text.includes('sluice:heartbeat')) await setStatus(s, worker.workerId, 'stopped');
    return answer;
  };
  await setStatus(s, worker.workerId, 'interrupted');
  await worker.heartbeat();
  urgent.query = query;
  expect(() => inside.assertReady()).toThrow(ClosedError);
  expect((await row(s, worker.workerId))!.status).toBe('stopped');
});

const ends: Record<
  string,
  { error: unknown; end: (s: Scenario, opened: Awaited<ReturnType<typeof open>>) => unknown }
> = {
  'a take-over': {
    error: WorkerFencedError,
    end: async (s, { worker }) => {
      await s.sluice.admin.deleteWorker(worker.workerId);
      await worker.heartbeat().catch(() => undefined);
    },
  },
  'its own shutdown': { error: ClosedError, end: (_s, { worker }) => worker.shutdown() },
  'a shutdown elsewhere': {
    error: ClosedError,
    end: async (_s, { worker, handle }) => {
      await handle.shutdown();
      await worker.heartbeat();
    },
  },
  // Its promise is not even looked at.
  'the beginning of close()': { error: ClosedError, end: (_s, { worker }) => void worker.close() },
  'leave()': { error: ClosedError, end: (_s, { inside }) => inside.leave() },
};

test.each(Object.entries(ends))('%s ends the waiting', async (_name, { error, end }) => {
  const s = await scenario();
  const opened = await open(s);
  const { worker, inside } = opened;
  await worker.suspend();
  const waiting = [inside.whenReady(), inside.whenReady(new AbortController().signal)];
  const ended = Promise.allSettled(waiting);
  expect(await pending(Promise.race(waiting))).toBe(true);
  await end(s, opened);
  for (const result of await within(2_000, 'the waiting', ended)) {
    expect(result.status).toBe('rejected');
    expect((result as PromiseRejectedResult).reason).toBeInstanceOf(error);
  }
  await expect(inside.whenReady()).rejects.toBeInstanceOf(error);
});

test('an abort ends the waiting of its own caller, with its reason', async () => {
  const { worker, inside } = await open(await scenario());
  await worker.suspend();
  const [mine, theirs] = [new AbortController(), new AbortController()];
  const [aborted, other, patient] = [
    inside.whenReady(mine.signal),
    inside.whenReady(theirs.signal),
    inside.whenReady(),
  ];
  const reason = new Error('no time');
  mine.abort(reason);
  await expect(aborted).rejects.toBe(reason);
  await expect(inside.whenReady(mine.signal)).rejects.toBe(reason);
  expect(await pending(Promise.race([other, patient]))).toBe(true);
  await worker.resume();
  await Promise.all([other, patient]);
  await expect(inside.whenReady(mine.signal)).rejects.toBe(reason);
});

test('thousands may wait, with one signal or many, and leave nothing behind', async () => {
  const { worker, inside } = await open(await scenario());
  const warnings: Error[] = [];
  const onWarning = (warning: Error) => warnings.push(warning);
  process.on('warning', onWarning);
  const shared = new AbortController();
  const own = Array.from({ length: 1_000 }, () => new AbortController());
  for (let round = 0; round < 3; round++) {
    await worker.suspend();
    const waiting = [
      ...Array.from({ length: 2_000 }, () => inside.whenReady(shared.signal)),
      ...Array.from({ length: 2_000 }, () => inside.whenReady()),
      ...own.map(({ signal }) => inside.whenReady(signal)),
    ];
    expect(getEventListeners(shared.signal, 'abort').length).toBeLessThanOrEqual(1);
    await worker.resume();
    await Promise.all(waiting);
    await Promise.all(Array.from({ length: 2_000 }, () => inside.whenReady(shared.signal)));
    for (const { signal } of [shared, ...own]) expect(getEventListeners(signal, 'abort')).toEqual([]);
  }
  await worker.suspend();
  const waiting = Array.from({ length: 2_000 }, () => inside.whenReady(shared.signal));
  const ended = Promise.allSettled(waiting);
  shared.abort();
  expect((await ended).every(({ status }) => status === 'rejected')).toBe(true);
  expect(getEventListeners(shared.signal, 'abort')).toEqual([]);
  await new Promise((resolve) => setImmediate(resolve));
  process.off('warning', onWarning);
  expect(warnings).toEqual([]);
});

test('a watcher hears of every change until it stops watching', async () => {
  const { worker, inside } = await open(await scenario());
  let heard = 0;
  const stop = inside.watchReadiness(() => heard++);
  await worker.suspend();
  expect(heard).toBe(1);
  await worker.resume();
  expect(heard).toBe(2);
  stop();
  await worker.suspend();
  expect(heard).toBe(2);
});
