import { expect, test } from 'vitest';
import type { StoredMessage } from '../../src/index.js';
import { within } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { blocked, failureOf, lockMessages, order, stored, watched } from './support.js';

type Item = StoredMessage<{ n: number }>;

const numbers = (count: number) => Array.from({ length: count }, (_, n) => n);

test('1,000 tasks that share a producer get each its own messages, in far fewer statements than calls', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer<{ n: number }>('work');
  const [tasks, rounds] = [1_000, 5];
  forget();
  const returned: Item[] = [];
  await Promise.all(
    numbers(tasks).map(async (task) => {
      for (let round = 0; round < rounds; round++) {
        const n = task * rounds + round;
        const message = (await producer.enqueue({ n })) as Item;
        expect(message.payload).toEqual({ n });
        returned.push(message);
      }
    }),
  );
  const rows = await stored(s);
  expect(rows).toHaveLength(tasks * rounds);
  expect(new Set(returned.map(({ id }) => id)).size).toBe(tasks * rounds);
  const byId = new Map(rows.map((row) => [row.id, row]));
  for (const { id, payload } of returned) expect(byId.get(id)?.n).toBe(payload.n);
  // Each task's own messages rise in id and in vt.
  const last = new Map<number, (typeof rows)[number]>();
  for (const row of rows) {
    const task = Math.floor(row.n / rounds);
    const before = last.get(task);
    if (before) {
      expect(row.n).toBe(before.n + 1);
      expect(BigInt(row.vt)).toBeGreaterThan(BigInt(before.vt));
    }
    last.set(task, row);
  }
  const statements = count('enqueue');
  console.info(`${tasks * rounds} calls, ${statements} statements`);
  expect(statements).toBeGreaterThanOrEqual(rounds);
  expect(statements).toBeLessThanOrEqual((tasks * rounds) / 50);
});

test('a lone call is one statement, and so is the next one after it', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work', { heartbeatIntervalSeconds: 3_600 });
  for (let n = 0; n < 5; n++) {
    forget();
    await producer.enqueue({ n });
    expect(count('enqueue')).toBe(1);
    expect(count('heartbeat')).toBe(0);
  }
  expect(await order(s)).toEqual(numbers(5));
});

test('calls of one tick share one statement, with ids and vt in call order', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work');
  forget();
  const messages = await Promise.all(
    numbers(400).map((n) => (n % 2 ? producer.enqueue({ n }) : producer.enqueueDelayed({ n }, 0))),
  );
  expect(count('enqueue')).toBe(1);
  const ids = messages.map(({ id }) => BigInt(id));
  expect(ids).toEqual([...ids].sort((a, b) => Number(a - b)));
  expect(await order(s)).toEqual(numbers(400));
  expect(await s.delivered()).toEqual(numbers(400));
});

test('calls made while a statement is under way share the next one, however many ticks they come from', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work');
  forget();
  const letGo = await lockMessages(s);
  const calls = [producer.enqueue({ n: 0 })];
  await blocked(s);
  for (let n = 1; n < 100; n++) {
    calls.push(producer.enqueue({ n }));
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(count('enqueue')).toBe(1);
  await letGo();
  await Promise.all(calls);
  expect(count('enqueue')).toBe(2);
  expect(await order(s)).toEqual(numbers(100));
});

test('a call made as soon as another has failed is sent like any other', async () => {
  const s = await scenario();
  const producer = await s.producer({ retries: 0 });
  const letGo = await lockMessages(s);
  const first = producer.enqueue({ n: 0 });
  // Between the failure of the first and the end of its group.
  const second = first.catch(async () => {
    void letGo();
    return producer.enqueue({ n: 1 });
  });
  const [pid] = await blocked(s);
  await s.pool.query('select pg_cancel_backend($1)', [pid]);
  expect(await failureOf(first)).toMatchObject({ code: 'DATABASE_ERROR', sqlState: '57014' });
  expect(await within(5_000, 'the second', second)).toMatchObject({ payload: { n: 1 } });
  expect(await order(s)).toEqual([1]);
});

test('a call made after another has resolved gets a later vt and a higher id, also from another producer', async () => {
  const s = await scenario();
  const [one, two] = [await s.producer(), await s.producer()];
  for (let n = 0; n < 200; n++) {
    const producer = n % 2 ? one : two;
    await (n % 3 ? producer.enqueue({ n }) : producer.batchEnqueue([{ n }]));
  }
  const rows = await stored(s);
  expect(rows.map(({ n }) => n)).toEqual(numbers(200));
  for (let n = 1; n < 200; n++) expect(BigInt(rows[n]!.vt)).toBeGreaterThan(BigInt(rows[n - 1]!.vt));
});

test('a flood beyond one group goes in groups that keep the order of the calls', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work');
  forget();
  // 2,500 small ones: by count. Then 5 of 3 MB each: by bytes, two of them to a group of 8 MiB.
  await Promise.all(numbers(2_500).map((n) => producer.enqueue({ n })));
  expect(count('enqueue')).toBe(3);
  forget();
  const text = 'x'.repeat(3_000_000);
  const big = await sluice.producer('work', { maxPayloadBytes: 4_000_000 });
  forget();
  await Promise.all(numbers(5).map((n) => big.enqueue({ n: 2_500 + n, text })));
  expect(count('enqueue')).toBe(3);
  expect(await order(s)).toEqual(numbers(2_505));
});

test('delays of calls that share a statement stay with their own messages', async () => {
  const s = await scenario();
  const { sluice, count, forget } = await watched(s);
  const producer = await sluice.producer('work');
  forget();
  const messages = await Promise.all(
    numbers(50).map((n) => producer.enqueue({ n }, { delaySeconds: n % 5 ? n : 0 })),
  );
  expect(count('enqueue')).toBe(1);
  const { rows } = await s.pool.query<{ id: string; n: number; delay: number }>(
    `select id::text, (payload->>'n')::int as n, extract(epoch from vt - enqueued_at)::int as delay
     from ${s.schema}.pgqrs_messages m order by m.id`,
  );
  expect(rows).toEqual(messages.map(({ id }, n) => ({ id, n, delay: n % 5 ? n : 0 })));
});
