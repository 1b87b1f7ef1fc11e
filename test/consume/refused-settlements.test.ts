import { expect, test } from 'vitest';
import type { Failure } from '../../src/consume/outcome.js';
import { numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';
import { dead, ending, enqueue, type Item, open, running, stored, summary } from './support.js';

/** From now on a run of a workflow of pgqrs refers to that message: the server refuses to delete it. */
async function referTo({ pool, schema, queue }: Scenario, n: number): Promise<void> {
  await pool.query(`insert into ${schema}.pgqrs_workflows (queue_id, name) values ($1, 'flow')`, [queue.id]);
  await pool.query(
    `insert into ${schema}.pgqrs_workflow_runs (workflow_id, message_id, status)
     select w.id, m.id, 'QUEUED' from ${schema}.pgqrs_workflows w, ${schema}.pgqrs_messages m
     where m.payload->>'n' = $1::text`,
    [n],
  );
}

test('one message of 500 that the server refuses to delete fails alone: the others are handled once, the run goes on', async () => {
  const s = await scenario();
  await enqueue(s, 500);
  await referTo(s, 250);
  const consumer = await s.consumer({ maxReadCount: 3, backoff: 0 });
  const failures: Failure[] = [];
  consumer.on('failed', (failure) => failures.push(failure)).on('leaseLost', () => expect.unreachable());
  consumer.on('claimError', () => expect.unreachable());
  const times = new Map<number, number>();
  const run = running(consumer, ({ payload: { n } }) => void times.set(n, (times.get(n) ?? 0) + 1), {
    onSuccess: 'delete',
    concurrency: 10,
    prefetch: 100,
  });
  await eventually('the end of all', async () => (await open(s)) === 0, 20_000);
  expect(await run.stop()).toEqual(summary({ done: 499, retried: 2, dead: 1 }));
  expect(times.size).toBe(500);
  expect([...times].filter(([, handled]) => handled > 1)).toEqual([[250, 3]]);
  expect(failures.map(({ error }) => (error as { sqlState?: string }).sqlState)).toEqual(
    Array(3).fill('23503'),
  );
  const [letter, ...others] = await dead(s);
  expect(others).toEqual([]);
  expect(letter).toMatchObject({ reason: 'exhausted', attempts: 3 });
  expect(letter!.lastError).toContain('SQLSTATE 23503');
});

test('a refused message waits as its back-off says', async () => {
  const s = await scenario();
  await enqueue(s, 5);
  await referTo(s, 2);
  const consumer = await s.consumer({ backoff: 100 });
  const run = running(consumer, () => undefined, { onSuccess: 'delete' });
  await eventually('the failure', async () => (await stored(s)).every(({ due }) => due > 50));
  expect(await run.stop()).toEqual(summary({ done: 4, retried: 1 }));
  expect(await stored(s)).toMatchObject([{ n: 2, readCount: 1, consumer: null, archived: false }]);
});

test('a caller is told that one of its own is refused, and the others of its group are deleted', async () => {
  const s = await scenario();
  await enqueue(s, 100);
  await referTo(s, 50);
  const consumer = await s.consumer();
  const messages = await consumer.dequeueMany<Item>(100);
  const answers = await Promise.allSettled(messages.map((message) => message.delete()));
  expect(answers.filter(({ status }) => status === 'rejected')).toMatchObject([
    { reason: { code: 'DATABASE_ERROR', sqlState: '23503' } },
  ]);
  expect((await stored(s)).map(({ n }) => n)).toEqual([50]);
  expect(await messages[50]!.archive()).toBe(true);
});

test('a claim that a refused message travels with brings its messages all the same', async () => {
  const s = await scenario();
  await enqueue(s, 20);
  await referTo(s, 7);
  const { sluice, answered, count } = await spied(s);
  const consumer = await sluice.consumer('work');
  const messages = await consumer.dequeueMany(10);
  const letGo = await new Promise<() => void>((resolve) => {
    answered('delete_messages', () => new Promise((go) => resolve(go)));
    void messages[0]!.delete();
  });
  const answers = Promise.allSettled(messages.slice(1).map((message) => message.delete()));
  expect(await within(5_000, 'the claim', consumer.dequeueMany(100))).toHaveLength(10);
  expect(count('claim_messages_and_delete')).toBe(1);
  expect((await answers).map(({ status }) => status === 'fulfilled')).toEqual(
    messages.slice(1).map((_, at) => at !== 6),
  );
  letGo();
});

test('a message that the server takes back no more than it archives it is lost, and handled no further', async () => {
  const s = await scenario();
  await enqueue(s, 10);
  // Whatever is said of number 5 while it is leased is refused.
  await s.pool.query(`create function ${s.schema}.refuse() returns trigger language plpgsql as
    $$ begin raise exception 'not this one'; end $$`);
  await s.pool.query(`create trigger refuse before update on ${s.schema}.pgqrs_messages for each row
    when (old.consumer_worker_id is not null and old.payload->>'n' = '5') execute function ${s.schema}.refuse()`);
  const consumer = await s.consumer();
  const lost: [string, unknown][] = [];
  consumer.on('leaseLost', ({ id }, error) => lost.push([id, error]));
  consumer.on('failed', () => expect.unreachable());
  const run = running(consumer, () => undefined, { lockSeconds: 1_000 });
  await eventually('the loss', async () => lost.length > 0 && (await open(s)) === 1);
  expect(await run.stop()).toEqual(summary({ done: 9, lost: 1 }));
  const left = (await stored(s)).find(({ archived }) => !archived)!;
  expect(left).toMatchObject({ n: 5, readCount: 1, consumer: consumer.workerId });
  expect(lost).toMatchObject([[left.id, { code: 'LEASE_LOST', cause: { sqlState: 'P0001' } }]]);
});

test('a transaction over a batch of which the server refuses one is rolled back; only that one has failed', async () => {
  const s = await scenario();
  await s.pool.query(`create table ${s.schema}.effects (n int)`);
  await enqueue(s, 20);
  await referTo(s, 7);
  const consumer = await s.consumer({ maxReadCount: 3, backoff: 0 });
  const failures: Failure[] = [];
  consumer.on('failed', (failure) => failures.push(failure)).on('leaseLost', () => expect.unreachable());
  const run = ending((signal) =>
    consumer.runBatch<Item>(
      async (messages, { client }) => {
        const written = messages.map(({ payload }) => payload.n);
        await client.query(`insert into ${s.schema}.effects select unnest($1::int[])`, [written]);
      },
      { signal, transactional: true, onSuccess: 'delete', batchSize: 20 },
    ),
  );
  await eventually('the end of all', async () => (await open(s)) === 0, 20_000);
  const ended = await run.stop();
  expect(ended).toMatchObject({ done: 19, retried: 2, dead: 1, lost: 0 });
  expect(failures.map(({ message }) => (message.payload as Item).n)).toEqual([7, 7, 7]);
  const { rows } = await s.pool.query<{ n: number }>(`select n from ${s.schema}.effects order by n`);
  expect(rows.map(({ n }) => n)).toEqual(numbers(20).filter((n) => n !== 7));
});
