import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { ClosedError, WorkerSuspendedError } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { row, setStatus, silence } from '../support/worker-rows.js';
import { missing } from './pgbouncer.js';
import { pooled } from './pooled.js';

describe.skipIf(missing !== undefined)('a worker through PgBouncer', () => {
  test('its heartbeats arrive, by their timer and on demand', async () => {
    const s = await pooled();
    const producer = await s.producer({ heartbeatIntervalSeconds: 0.1 });
    const quiet = await s.producer({ heartbeatIntervalSeconds: 3_600 });
    for (const { workerId } of [producer, quiet]) await silence(s, workerId, 600);
    await eventually('a heartbeat', async () => (await row(s, producer.workerId))!.age < 60);
    expect(await quiet.isHealthy({ minutes: 5 })).toBe(false);
    await quiet.heartbeat();
    expect(await quiet.isHealthy({ minutes: 5 })).toBe(true);
  });

  test('it is suspended, resumed and shut down', async () => {
    const s = await pooled();
    const producer = await s.producer();
    await producer.suspend();
    expect(await producer.status()).toBe('suspended');
    await expect(producer.enqueue({ n: 0 })).rejects.toThrow(WorkerSuspendedError);
    await producer.resume();
    await producer.enqueue({ n: 1 });
    await producer.suspend();
    await producer.shutdown();
    await expect(producer.enqueue({ n: 2 })).rejects.toThrow(ClosedError);
    expect(await row(s, producer.workerId)).toMatchObject({ status: 'stopped', stopped: true });
    expect(await s.delivered()).toEqual([1]);
  });

  test('a suspension from elsewhere is seen by the next heartbeat', async () => {
    const s = await pooled();
    const consumer = await s.consumer({ heartbeatIntervalSeconds: 0.1 });
    const seen = once(consumer, 'status');
    await setStatus(s, consumer.workerId, 'suspended');
    expect(await within(5_000, 'the news', seen)).toEqual(['suspended']);
    await expect(consumer.dequeue()).rejects.toThrow(WorkerSuspendedError);
  });

  test('one whose name was taken over is fenced: it writes and claims nothing more', async () => {
    const s = await pooled();
    const name = { hostname: 'host', port: 4_000, heartbeatIntervalSeconds: 100, staleAfterSeconds: 300 };
    const first = await s.producer(name);
    await first.enqueue({ n: 0 });
    const elsewhere = await s.another();
    await expect(elsewhere.producer('work', name)).rejects.toMatchObject({ code: 'WORKER_ALREADY_ACTIVE' });
    await silence(s, first.workerId, 600);
    const second = await elsewhere.producer('work', name);
    expect(second.workerId).toBe(first.workerId);
    const fenced = once(first, 'fenced');
    await expect(first.enqueue({ n: 1 })).rejects.toMatchObject({ code: 'WORKER_FENCED' });
    await within(5_000, 'the event', fenced);
    await expect(first.ingest([{ n: 2 }])).rejects.toMatchObject({ code: 'WORKER_FENCED' });
    await second.enqueue({ n: 3 });
    expect(await s.delivered()).toEqual([0, 3]);
  });
});
