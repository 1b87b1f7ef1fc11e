import { expect, test } from 'vitest';
import { numbers } from '../ingest/support.js';
import { numbered, scenario } from '../support/scenario.js';
import { recorded, refusing, stored } from './producer-api.js';

test('9: batchEnqueue() returns all messages as they are stored, in input order with ascending ids', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const payloads = [...numbered(300), null, [], 'text', { n: 0 }, { n: 0 }];
  const messages = await producer.batchEnqueue(payloads);
  expect(messages.map(({ payload }) => payload)).toEqual(payloads);
  expect(await stored(s)).toEqual(messages); // which is by id
  for (const message of messages) {
    expect(message).toMatchObject({
      queueId: s.queue.id,
      vt: message.enqueuedAt,
      readCount: 0,
      dequeuedAt: null,
      producerWorkerId: producer.workerId,
      consumerWorkerId: null,
      archivedAt: null,
    });
  }
  const { rows } = await s.pool.query(
    `select count(distinct (enqueued_at, vt))::int as moments, bool_and(vt = enqueued_at and vt <= now()) as due
     from ${s.schema}.pgqrs_messages`,
  );
  expect(rows).toEqual([{ moments: 1, due: true }]);
});

test('9: messages that are gone before anybody could look again are returned all the same (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer();
  // Quicker than any consumer.
  await s.pool.query(`
    create function ${s.schema}.consume() returns trigger language plpgsql as $$
    begin delete from ${s.schema}.pgqrs_messages; return null; end $$;
    create trigger consume after insert on ${s.schema}.pgqrs_messages execute function ${s.schema}.consume()`);
  const messages = await producer.batchEnqueue(['a', 'b', 'c']);
  expect(await s.count()).toBe(0);
  expect(messages.map(({ payload }) => payload)).toEqual(['a', 'b', 'c']);
  expect(new Set(messages.map(({ id }) => id)).size).toBe(3);
});

test('10: a batch is stored as a whole, or not at all', async () => {
  const s = await scenario();
  const producer = await s.producer({ maxPayloadBytes: 100, retries: 0 });
  const batch = (bad: unknown) => [...Array.from({ length: 9 }, (_, n) => ({ n })), bad];
  // Refused here, by the last of them.
  await expect(producer.batchEnqueue(batch(undefined))).rejects.toMatchObject({ code: 'PAYLOAD_INVALID' });
  await expect(producer.batchEnqueue(batch({ constructor: 1 }))).rejects.toMatchObject({
    code: 'PAYLOAD_INVALID',
  });
  await expect(producer.batchEnqueue(batch('x'.repeat(99)))).rejects.toMatchObject({
    code: 'PAYLOAD_TOO_LARGE',
  });
  // Refused by the server, when the others are in the table already: for what it is, and for no fault of the batch.
  await refusing(s, `new.payload->>'n' = '9'`, '23514');
  await expect(producer.batchEnqueue(batch({ n: 9 }))).rejects.toMatchObject({ code: 'PAYLOAD_INVALID' });
  await s.pool.query(`drop function ${s.schema}.refuse cascade; drop sequence ${s.schema}.tries`);
  await refusing(s, `new.payload->>'n' = '9'`, '40001');
  await expect(producer.batchEnqueue(batch({ n: 9 }))).rejects.toMatchObject({
    code: 'DATABASE_ERROR',
    sqlState: '40001',
  });
  expect(await s.count()).toBe(0);
  expect(await producer.batchEnqueue(batch({ n: 10 }))).toHaveLength(10);
  expect(await s.count()).toBe(10);
});

test('11: a batch of 1,000 works with the default configuration (deviation)', async () => {
  const s = await scenario();
  const messages = await (await s.producer()).batchEnqueue([...numbered(1_000)]);
  expect(new Set(messages.map(({ id }) => id)).size).toBe(1_000);
  expect(await s.delivered()).toEqual(numbers(1_000));
});

test('12: an empty batch gives [] and sends no statement', async () => {
  const s = await scenario();
  const { sluice, statements } = await recorded(s);
  const producer = await sluice.producer('work');
  statements();
  expect(await producer.batchEnqueue([])).toEqual([]);
  expect(statements()).toEqual([]);
  await producer.batchEnqueue([1]);
  expect(statements()).toEqual(['enqueue']);
  expect(await s.count()).toBe(1);
});

test('13: a batch is one statement in one transaction, where singles are one each', async () => {
  const s = await scenario();
  const { sluice, statements } = await recorded(s);
  const producer = await sluice.producer('work');
  const transactions = async () => {
    const { rows } = await s.pool.query<{ count: number }>(
      `select count(distinct xmin::text)::int as count from ${s.schema}.pgqrs_messages`,
    );
    return rows[0]!.count;
  };
  statements();
  await producer.batchEnqueue([...numbered(500)]);
  expect(statements()).toEqual(['enqueue']);
  expect(await transactions()).toBe(1);
  for (const item of numbered(10, 500)) await producer.enqueue(item);
  expect(statements()).toEqual(Array.from({ length: 10 }, () => 'enqueue'));
  expect(await transactions()).toBe(11);
  expect(await s.delivered()).toEqual(numbers(510));
});

test('14: our consumers get the messages of a batch in input order (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer();
  for (let from = 0; from < 900; from += 300) await producer.batchEnqueue([...numbered(300, from)]);
  // Rows that were updated lie elsewhere in the table now: its order is no longer theirs.
  await s.pool.query(`update ${s.schema}.pgqrs_messages set read_ct = 0 where id % 3 = 0`);
  const consumer = await s.consumer();
  const got: unknown[] = [];
  for (let take = 0; take < 9; take++)
    got.push(...(await consumer.dequeueMany<{ n: number }>(100)).map(({ payload }) => payload.n));
  expect(got).toEqual(numbers(900));
});
