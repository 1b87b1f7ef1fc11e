import { once } from 'node:events';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { afterFailure } from '../../src/consume/outcome.js';
import { retryPolicy } from '../../src/consume/retry-policy.js';
import { connect, DeadLetter, LeaseLostError } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { startProxy } from '../support/proxy.js';
import { scenario, type Scenario } from '../support/scenario.js';
import {
  change,
  dead,
  ending,
  enqueue,
  type Item,
  ns,
  open,
  PATIENT,
  running,
  stored,
  summary,
} from './support.js';

test('a signal that has aborted already ends the run at once', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  const consumer = await s.consumer();
  const run = consumer.run(() => expect.unreachable(), {
    signal: AbortSignal.abort(),
  });
  expect(await within(3_000, 'the run', run)).toEqual(summary({}));
  expect(ns(await (await s.consumer()).dequeueMany(10))).toEqual([0, 1, 2]);
});

test('transactional handlers that wait for a client of the pool have not failed', async () => {
  const s = await scenario();
  await enqueue(s, 8);
  const pool = new pg.Pool({
    connectionString: s.url,
    max: 2,
    connectionTimeoutMillis: 500,
  });
  const sluice = await connect({ pool, schema: s.schema });
  onTestFinished(async () => {
    await sluice.close();
    await pool.end();
  });
  const consumer = await sluice.consumer('work', {
    maxReadCount: 2,
    backoff: 0,
  });
  const failures: unknown[] = [];
  consumer.on('failed', ({ error }) => failures.push(error));
  let handled = 0;
  const run = ending((signal) =>
    consumer.run<Item>(
      async (_message, { client }) => {
        await client.query('select pg_sleep(0.8)');
        handled++;
      },
      { signal, transactional: true, concurrency: 6 },
    ),
  );
  await eventually('the end', async () => (await open(s)) === 0, 20_000);
  await run.stop();
  expect(failures).toEqual([]);
  expect(handled).toBe(8);
  expect(await dead(s)).toEqual([]);
});

test('a message that failed is on time, though nothing is polled', async () => {
  const s = await scenario();
  const consumer = await s.consumer({ ...PATIENT, backoff: 0.2 });
  const listening = once(consumer, 'listening');
  const attempts: number[] = [];
  const run = running(consumer, ({ readCount }) => {
    attempts.push(readCount);
    if (readCount < 3) throw new Error('not yet');
  });
  await listening;
  await enqueue(s, 1);
  await eventually('the third attempt', () => attempts.length === 3);
  expect(await run.stop()).toEqual(summary({ done: 1, retried: 2 }));
});

test('extend() of a lost lease does not keep the loss from the handler', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer(PATIENT);
  let reason: unknown;
  const run = running(
    consumer,
    async (_message, context) => {
      await change(s, `consumer_worker_id = null, vt = now() + interval '1 hour'`);
      expect(await context.extend(60)).toBe(false);
      await eventually('the abort', () => context.signal.aborted, 5_000).catch(() => undefined);
      reason = context.signal.reason;
    },
    { lockSeconds: 1 },
  );
  await eventually('the loss', () => reason);
  expect(await run.stop()).toEqual(summary({ lost: 1 }));
  expect(reason).toBeInstanceOf(LeaseLostError);
});

test('extend() can be taken out of the context', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer({ maxReadCount: 1 });
  const run = running(consumer, async (_message, { extend }) => {
    expect(await extend(50)).toBe(true);
  });
  await eventually('the end', async () => (await open(s)) === 0);
  expect(await run.stop()).toEqual(summary({ done: 1 }));
});

test.each([-1, Number.NaN, Infinity, '5', 2_592_001])('extend(%s) is refused', async (seconds) => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer({ maxReadCount: 1 });
  let error: unknown;
  const run = running(consumer, async (_message, context) => {
    error = await context.extend(seconds as number).catch((error: unknown) => error);
  });
  await eventually('the end', async () => (await open(s)) === 0);
  await run.stop();
  expect(error).toMatchObject({ code: 'INVALID_OPTION', field: 'seconds' });
});

async function behindProxy(s: Scenario, name: string) {
  const proxy = await startProxy(s.url);
  const sluice = await connect({ dsn: proxy.url, schema: s.schema });
  onTestFinished(async () => {
    await sluice.close();
    await proxy[Symbol.asyncDispose]();
  });
  let cut = false;
  proxy.judge = ({ from, data }) => {
    if (cut || from !== 'client' || !data.includes(name)) return 'pass';
    cut = true;
    return 'passThenCut';
  };
  return { consumer: await sluice.consumer('work', { backoff: 100 }) };
}

test('a message that was deleted before the connection broke is done, not lost', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const { consumer } = await behindProxy(s, 'sluice:delete_messages');
  consumer.on('leaseLost', () => expect.unreachable());
  const run = running(consumer, () => undefined, { onSuccess: 'delete' });
  await eventually('the end', async () => (await s.count()) === 0);
  expect(await run.stop()).toEqual(summary({ done: 1 }));
});

test('a failure that was told before the connection broke is a failure, not a loss', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const { consumer } = await behindProxy(s, 'sluice:release_messages');
  const failures: unknown[] = [];
  consumer.on('failed', (failure) => failures.push(failure));
  const run = running(consumer, () => {
    throw new DeadLetter('never');
  });
  await eventually('the end', async () => (await open(s)) === 0);
  expect(await run.stop()).toEqual(summary({ dead: 1 }));
  expect(failures).toHaveLength(1);
});

test('a transaction whose COMMIT was carried out but not answered is done, not lost', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const { consumer } = await behindProxy(s, '; commit');
  const run = ending((signal) => consumer.run(() => undefined, { signal, transactional: true }));
  await eventually('the end', async () => (await open(s)) === 0);
  expect(await run.stop()).toEqual(summary({ done: 1 }));
});

test('what the first half of a claim has brought is not thrown away when the second half fails', async () => {
  const s = await scenario();
  await enqueue(s, 10);
  const proxy = await startProxy(s.url);
  const sluice = await connect({ dsn: proxy.url, schema: s.schema });
  onTestFinished(async () => {
    await sluice.close();
    await proxy[Symbol.asyncDispose]();
  });
  const consumer = await sluice.consumer('work');
  let claims = 0;
  proxy.judge = ({ from, data }) =>
    from === 'client' && data.includes('sluice:claim_messages') && ++claims === 3 ? 'cut' : 'pass';
  await consumer.dequeueMany(4);
  // Six behind the floor; then the connection breaks in the look before it.
  const got = await consumer.dequeueMany(8).catch((error: unknown) => error);
  expect(claims).toBe(3);
  expect(got).toHaveLength(6);
});

test('a message that has been due for ever does not stop the consumer', async () => {
  const s = await scenario();
  await enqueue(s, 3);
  await change(s, `vt = '-infinity'`);
  const consumer = await s.consumer();
  for (let n = 0; n < 3; n++) expect(ns(await consumer.dequeueMany(1))).toEqual([n]);
});

test('a listener that throws does not end the run, nor change what others are told', async () => {
  const s = await scenario();
  await enqueue(s, 20);
  const consumer = await s.consumer();
  const uncaught = instead('uncaughtException');
  consumer.on('leaseLost', () => {
    throw new Error("a listener's own");
  });
  const run = running(consumer, async (message) => {
    if (message.payload.n === 0) await consumer.archive(message.id); // not known to the run
  });
  await eventually('the end', async () => (await open(s)) === 0);
  expect(await run.stop()).toMatchObject({ done: 19, lost: 1 });
  expect(uncaught).toEqual([new Error("a listener's own")]);
});

test('a DeadLetter is one, whatever its cause is like', () => {
  const circular = new Error('round');
  circular.cause = circular;
  for (const cause of [circular, Object.create(null)]) {
    const release = afterFailure({ id: '1', readCount: 1 }, new DeadLetter('never', { cause }), () => 5, 5);
    expect(release.dead?.reason).toBe('never');
  }
});

test('no wait stays none, however often it was tried', () => {
  expect(retryPolicy({ baseSeconds: 0 })(2_000, undefined)).toBe(0);
});

test('batches are full while there is enough, with a small prefetch too', async () => {
  const s = await scenario();
  await enqueue(s, 300);
  const consumer = await s.consumer();
  const sizes: number[] = [];
  const run = ending((signal) =>
    consumer.runBatch<Item>((messages) => void sizes.push(messages.length), {
      signal,
      batchSize: 50,
      prefetch: 20,
    }),
  );
  await eventually('the end', async () => (await open(s)) === 0);
  await run.stop();
  expect(sizes).toEqual([50, 50, 50, 50, 50, 50]);
});

test('what is no AbortSignal is refused', async () => {
  const s = await scenario();
  const consumer = await s.consumer();
  const error = await consumer
    .run(() => undefined, { signal: {} as AbortSignal })
    .catch((error: unknown) => error);
  expect(error).toMatchObject({ code: 'INVALID_OPTION', field: 'signal' });
});

test('a message that its handler has settled itself is not lost', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const consumer = await s.consumer({ backoff: 500 });
  let lost = 0;
  consumer.on('leaseLost', () => lost++);
  const run = running(consumer, async (message) => {
    expect(await message.release({ delaySeconds: 1_000 })).toBe(true);
  });
  await eventually('the release', async () => (await stored(s))[0]!.due > 500);
  await run.stop();
  expect(lost).toBe(0);
});

test('a run that ends while an outcome is in doubt has not failed for that', async () => {
  const s = await scenario();
  await enqueue(s, 1);
  const { consumer } = await behindProxy(s, 'sluice:release_messages');
  let failing = false;
  const run = running(consumer, () => {
    failing = true;
    throw new DeadLetter('never');
  });
  await eventually('the handler', () => failing);
  expect(await run.stop()).toEqual(summary({ dead: 1 }));
});

test.each([-1, Number.NaN])('message.extendVisibility(%s) is refused', async (seconds) => {
  const s = await scenario();
  await enqueue(s, 1);
  const message = (await (await s.consumer()).dequeue())!;
  const error = await message.extendVisibility(seconds).catch((error: unknown) => error);
  expect(error).toMatchObject({ code: 'INVALID_OPTION', field: 'seconds' });
});

/** Collects what would end the process, for as long as the test runs. */
function instead(event: 'uncaughtException'): unknown[] {
  const others = process.listeners(event);
  const caught: unknown[] = [];
  process.removeAllListeners(event);
  process.on(event, (error) => void caught.push(error));
  onTestFinished(() => {
    process.removeAllListeners(event);
    for (const other of others) process.on(event, other);
  });
  return caught;
}
