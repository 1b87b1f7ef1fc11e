import { once } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { connect } from '../src/index.js';
import { eventually } from './support/eventually.js';
import { type Scenario, scenario } from './support/scenario.js';
import { row, setStatus, silence } from './support/worker-rows.js';

test('all workers of a process share one statement a beat', async () => {
  const s = await scenario();
  const { sluice, count } = await heartbeats(s);
  const workers = await Promise.all(
    Array.from({ length: 20 }, () => sluice.consumer('work', { heartbeatIntervalSeconds: 0.2 })),
  );
  const before = count();
  for (const { workerId } of workers) await silence(s, workerId, 1_000);
  await eventually('a beat of each', async () => {
    const rows = await Promise.all(workers.map(({ workerId }) => row(s, workerId)));
    return rows.every((found) => found!.age < 100);
  });
  // Twenty each, were they sent one by one.
  expect(count() - before).toBeLessThan(20);
});

test('a worker beats every two seconds unless told otherwise', async () => {
  const s = await scenario();
  const worker = await s.consumer();
  await silence(s, worker.workerId, 1_000);
  await eventually('a beat', async () => (await row(s, worker.workerId))!.age < 100, 4_000);
});

test('a beat that finds one worker gone, one interrupted and one suspended tells each its own', async () => {
  const s = await scenario();
  const options = { heartbeatIntervalSeconds: 0.05 };
  const [gone, interrupted, suspended, untouched] = await Promise.all(
    Array.from({ length: 4 }, () => s.consumer(options)),
  );
  const fenced = once(gone!, 'fenced');
  const told = once(suspended!, 'status');
  await s.pool.query(`delete from ${s.schema}.sluice_workers where worker_id = ${gone!.workerId}`);
  await s.pool.query(`delete from ${s.schema}.pgqrs_workers where id = ${gone!.workerId}`);
  await setStatus(s, interrupted!.workerId, 'interrupted');
  await setStatus(s, suspended!.workerId, 'suspended');
  await fenced;
  expect(await told).toEqual(['suspended']);
  await eventually('its answer', async () => (await interrupted!.status()) === 'suspended');
  expect(await untouched!.status()).toBe('ready');
  await silence(s, untouched!.workerId, 1_000);
  await eventually('a beat', () => untouched!.isHealthy({ seconds: 5 }));
});

test('while its beats fail a worker says so, and is not healthy', async () => {
  const s = await scenario();
  const consumer = await s.consumer({ heartbeatIntervalSeconds: 0.05 });
  const stop = new AbortController();
  const run = consumer.run(() => undefined, { signal: stop.signal });
  onTestFinished(async () => {
    stop.abort();
    await run;
  });
  const failed = once(consumer, 'heartbeatError');
  // Beats alone are refused: the run does not notice.
  await s.pool.query(`
    create function ${s.schema}.refuse() returns trigger language plpgsql as $$ begin raise 'no beat'; end $$;
    create trigger refuse before update of heartbeat_at on ${s.schema}.pgqrs_workers
      for each row execute function ${s.schema}.refuse()`);
  expect((await failed)[0]).toMatchObject({ message: expect.stringContaining('no beat') as string });
  await eventually('ill health', async () => !(await consumer.isHealthy({ seconds: 0.05 })));
  await s.pool.query(`drop trigger refuse on ${s.schema}.pgqrs_workers`);
  await eventually('health', () => consumer.isHealthy({ seconds: 1 }));
});

test('what a listener of `listening` throws is an uncaught exception, and no reason to connect again', async () => {
  const s = await scenario();
  const uncaught = uncaughtExceptions();
  const consumer = await s.consumer({ pollIntervalMs: 60_000 });
  consumer.on('listening', () => {
    throw new Error('of a listener');
  });
  const deaf: Error[] = [];
  consumer.on('deaf', (reason) => deaf.push(reason));
  const dequeued = consumer.messages()[Symbol.asyncIterator]().next();
  await eventually('the exception', () => uncaught.length > 0);
  const producer = await s.producer();
  await producer.enqueue({ n: 1 });
  expect((await dequeued).value).toMatchObject({ payload: { n: 1 } });
  expect(deaf).toEqual([]);
  expect(uncaught).toMatchObject([{ message: 'of a listener' }]);
});

/** Those of this test, which would end it otherwise. */
function uncaughtExceptions(): unknown[] {
  const uncaught: unknown[] = [];
  const before = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (error) => uncaught.push(error));
  onTestFinished(() => {
    process.removeAllListeners('uncaughtException');
    for (const listener of before) process.on('uncaughtException', listener);
  });
  return uncaught;
}

/** A Sluice whose heartbeats are counted. */
async function heartbeats(s: Scenario) {
  const sluice = await connect({ dsn: s.url, schema: s.schema });
  onTestFinished(() => sluice.close());
  const { db } = (await sluice.producer('work', { heartbeatIntervalSeconds: 3_600 })) as unknown as {
    db: { urgent: { query: (...args: unknown[]) => Promise<unknown[]> } };
  };
  let beats = 0;
  const query = db.urgent.query.bind(db.urgent);
  db.urgent.query = (...args) => {
    if (String(args[0]).includes('sluice:heartbeat')) beats++;
    return query(...args);
  };
  return { sluice, count: () => beats };
}
