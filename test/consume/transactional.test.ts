import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { connect, DeadLetter, LeaseLostError } from '../../src/index.js';
import { numbers } from '../ingest/support.js';
import { eventually } from '../support/eventually.js';
import { asksToCommit, type Bytes, type Fate, saysCommitted, startProxy } from '../support/proxy.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { change, dead, ending, enqueue, type Item, open, PATIENT, stored, summary } from './support.js';

/** With a table of effects: one row for each message that was handled, and for each time. */
async function withEffects(count: number) {
  const s = await scenario();
  await s.pool.query(`create table ${s.schema}.effects (n int)`);
  await enqueue(s, count);
  return s;
}

async function effects({ pool, schema }: Scenario): Promise<number[]> {
  const { rows } = await pool.query<{ n: number }>(`select n from ${schema}.effects order by n`);
  return rows.map(({ n }) => n);
}

const note = ({ schema }: Scenario, client: pg.ClientBase, n: number) =>
  client.query(`insert into ${schema}.effects values ($1)`, [n]);

test.each(['archive', 'delete'] as const)(
  'what a handler writes commits together with its message: %s',
  async (onSuccess) => {
    const s = await withEffects(20);
    const consumer = await s.consumer();
    const run = ending((signal) =>
      consumer.run<Item>(
        async ({ payload: { n } }, { client }) => {
          await note(s, client, n);
          // Nobody else sees it before the message is settled.
          expect(await effects(s)).not.toContain(n);
        },
        { signal, onSuccess, transactional: true, concurrency: 3 },
      ),
    );
    await eventually('all of them', async () => (await open(s)) === 0);
    expect(await run.stop()).toEqual(summary({ done: 20 }));
    expect(await effects(s)).toEqual(numbers(20));
    expect(await stored(s)).toHaveLength(onSuccess === 'archive' ? 20 : 0);
  },
);

test('what a handler has written before it fails is not there, and is there once when it is tried again', async () => {
  const s = await withEffects(10);
  const consumer = await s.consumer({ backoff: 0 });
  const run = ending((signal) =>
    consumer.run<Item>(
      async ({ payload: { n }, readCount }, { client }) => {
        await note(s, client, n);
        if (n === 7) throw new DeadLetter('never');
        if (n % 2 === 0 && readCount === 1) throw new Error('not at the first time');
        // A statement that failed has ended the transaction, whether the handler cares or not.
        if (n === 1 && readCount === 1) await client.query('select 1 / 0').catch(() => undefined);
      },
      { signal, transactional: true },
    ),
  );
  await eventually('all of them', async () => (await open(s)) === 0);
  expect(await run.stop()).toEqual(summary({ done: 9, retried: 6, dead: 1 }));
  expect(await effects(s)).toEqual(numbers(10).filter((n) => n !== 7));
  expect(await dead(s)).toMatchObject([{ reason: 'never', attempts: 1 }]);
});

test('a message that two consumers have handled has had its effects once', async () => {
  const s = await withEffects(1);
  const [slow, quick] = [await s.consumer(PATIENT), await s.consumer({ pollIntervalMs: 20 })];
  const lost: unknown[] = [];
  slow.on('leaseLost', (_message, error) => lost.push(error));
  let handled = 0;
  const second = { run: undefined as ReturnType<typeof ending> | undefined };
  const first = ending((signal) =>
    slow.run<Item>(
      async ({ payload: { n } }, context) => {
        await note(s, context.client, n);
        handled++;
        await change(s, `vt = now() - interval '1 second'`);
        second.run = ending((signal) =>
          quick.run<Item>(
            async (message, { client }) => {
              await note(s, client, message.payload.n);
              handled++;
            },
            { signal, transactional: true },
          ),
        );
        await eventually('the other', async () => (await open(s)) === 0);
      },
      // No room for it to come back to this one.
      { signal, transactional: true, lockSeconds: 1_000, concurrency: 1, prefetch: 0 },
    ),
  );
  await eventually('the loss', () => lost.length === 1);
  expect(await first.stop()).toEqual(summary({ lost: 1 }));
  expect(await second.run!.stop()).toEqual(summary({ done: 1 }));
  expect(handled).toBe(2);
  expect(await effects(s)).toEqual([0]);
  expect((await stored(s))[0]).toMatchObject({ readCount: 2, consumer: quick.workerId });
});

test('a lease that is lost at the end rolls back what was written, and is no failure', async () => {
  const s = await withEffects(1);
  const consumer = await s.consumer(PATIENT);
  consumer.on('failed', () => expect.unreachable());
  const run = ending((signal) =>
    consumer.run<Item>(
      async ({ payload: { n } }, context) => {
        await note(s, context.client, n);
        await change(s, `consumer_worker_id = null, vt = now() + interval '1 hour'`);
        await eventually('the abort', () => context.signal.aborted);
        expect(context.signal.reason).toBeInstanceOf(LeaseLostError);
      },
      { signal, transactional: true, lockSeconds: 0.5 },
    ),
  );
  await eventually('a lost message', async () => (await stored(s))[0]!.due > 3_000);
  const ended = await run.stop();
  expect(ended).toEqual(summary({ lost: 1 }));
  expect(await effects(s)).toEqual([]);
  expect((await stored(s))[0]).toMatchObject({ readCount: 1, consumer: null, archived: false });
});

const effectsOf = ({ from, data }: Bytes) => from === 'client' && data.includes('.effects values');
const settles = ({ from, data }: Bytes) => from === 'client' && data.includes('sluice:archive_messages');

test.each<{ when: string; judge: (bytes: Bytes) => boolean; fate: Fate; readCount: number }>([
  { when: 'while the handler writes', judge: effectsOf, fate: 'cut', readCount: 2 },
  { when: 'when the message is settled', judge: settles, fate: 'cut', readCount: 2 },
  { when: 'after the message was settled', judge: settles, fate: 'passThenCut', readCount: 2 },
  { when: 'before the COMMIT', judge: asksToCommit, fate: 'cut', readCount: 2 },
  { when: 'during the COMMIT', judge: asksToCommit, fate: 'passThenCut', readCount: 1 },
  { when: 'after the COMMIT, before its answer', judge: saysCommitted, fate: 'cut', readCount: 1 },
])('a connection that breaks $when leaves the effects there once', async ({ judge, fate, readCount }) => {
  const s = await withEffects(1);
  const proxy = await startProxy(s.url);
  const sluice = await connect({ dsn: proxy.url, schema: s.schema });
  onTestFinished(async () => {
    await sluice.close();
    await proxy[Symbol.asyncDispose]();
  });
  const consumer = await sluice.consumer('work', { backoff: 0, pollIntervalMs: 20 });
  let met = false;
  let begun = false;
  proxy.judge = (bytes) => {
    if (met || !begun || !judge(bytes)) return 'pass';
    met = true;
    return fate;
  };
  const run = ending((signal) =>
    consumer.run<Item>(
      async ({ payload: { n } }, { client }) => {
        begun = true;
        await note(s, client, n);
      },
      { signal, transactional: true, concurrency: 1, lockSeconds: 1_000 },
    ),
  );
  await eventually('the end', async () => met && (await open(s)) === 0);
  await run.stop();
  expect(await effects(s)).toEqual([0]);
  const [row] = await stored(s);
  expect(row).toMatchObject({ archived: true });
  if (fate === 'cut' || readCount === 1) expect(row!.readCount).toBe(readCount);
  expect(await dead(s)).toEqual([]);
});

test('more handlers than the pool has clients do not wait for one another for ever', async () => {
  const s = await withEffects(60);
  const pool = new pg.Pool({ connectionString: s.url, max: 2 });
  const sluice = await connect({ pool, schema: s.schema });
  onTestFinished(async () => {
    await sluice.close();
    await pool.end();
  });
  const consumer = await sluice.consumer('work', { backoff: 0 });
  let active = 0;
  let most = 0;
  const run = ending((signal) =>
    consumer.run<Item>(
      async ({ payload: { n }, readCount }, { client }) => {
        most = Math.max(most, ++active);
        await note(s, client, n);
        active--;
        if (n % 10 === 0 && readCount === 1) throw new Error('again');
      },
      { signal, transactional: true, concurrency: 20 },
    ),
  );
  await eventually('all of them', async () => (await open(s)) === 0, 20_000);
  expect(await run.stop()).toEqual(summary({ done: 60, retried: 6 }));
  expect(most).toBe(2);
  expect(await effects(s)).toEqual(numbers(60));
  await eventually('the clients back', () => pool.idleCount === pool.totalCount && pool.waitingCount === 0);
});

test('a batch settles what is done in its transaction, and the others by themselves', async () => {
  const s = await withEffects(6);
  const consumer = await s.consumer({ backoff: 500 });
  const sizes: number[] = [];
  const run = ending((signal) =>
    consumer.runBatch<Item>(
      async (messages, { client }) => {
        sizes.push(messages.length);
        for (const { payload } of messages) if (payload.n % 3 === 0) await note(s, client, payload.n);
        return messages.map(({ payload: { n } }) =>
          n % 3 === 0 ? 'done' : n % 3 === 1 ? new Error(`again ${n}`) : new DeadLetter(`never ${n}`),
        );
      },
      { signal, transactional: true },
    ),
  );
  await eventually('their end', async () => (await stored(s)).every((row) => row.archived || row.due > 200));
  expect(await run.stop()).toEqual(summary({ done: 2, retried: 2, dead: 2 }));
  expect(sizes).toEqual([6]);
  expect(await effects(s)).toEqual([0, 3]);
  expect((await dead(s)).map(({ reason }) => reason)).toEqual(['never 2', 'never 5']);
});

test('a batch of which one message was lost writes nothing; the others are free at once', async () => {
  const s = await withEffects(3);
  const consumer = await s.consumer();
  const other = await s.consumer();
  let batches = 0;
  const run = ending((signal) =>
    consumer.runBatch<Item>(
      async (messages, { client }) => {
        for (const { payload } of messages) await note(s, client, payload.n);
        if (++batches > 1) return;
        await change(s, `vt = now() - interval '1 second'`, `payload->>'n' = '1'`);
        expect(await other.dequeueMany(10, { lockSeconds: 1_000 })).toHaveLength(1);
      },
      { signal, transactional: true, lockSeconds: 1_000, batchSize: 3, prefetch: 0 },
    ),
  );
  await eventually('the others', async () => (await open(s)) === 1);
  expect(await run.stop()).toEqual(summary({ done: 2, lost: 1, released: 2 }));
  expect(await effects(s)).toEqual([0, 2]);
});
