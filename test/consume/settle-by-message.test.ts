import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import type { Message, SettleOptions } from '../../src/index.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';
import { change, dead, enqueue, expectBetween, stored } from './support.js';

interface Way {
  settle: (message: Message, options?: SettleOptions) => Promise<boolean>;
  /** Deliveries before. */
  before?: number;
  /** Seconds until it is due again; undefined: it is not. */
  due?: number;
  archived?: boolean;
  gone?: boolean;
  reason?: string;
}

const ways: Record<string, Way> = {
  'archive()': { settle: (message, options) => message.archive(options), archived: true },
  'delete()': { settle: (message, options) => message.delete(options), gone: true },
  'release()': { settle: (message, options) => message.release(options), due: 0 },
  'release({ delaySeconds })': {
    settle: (message, options) => message.release({ ...options, delaySeconds: 50 }),
    due: 50,
  },
  'fail()': { settle: (message, options) => message.fail(new Error('boom'), options), due: 400 },
  'fail() of the last attempt': {
    settle: (message, options) => message.fail(new Error('boom'), options),
    before: 2,
    archived: true,
    reason: 'exhausted',
  },
  'deadLetter()': {
    settle: (message, options) => message.deadLetter('no customer', { ...options, error: new Error('boom') }),
    archived: true,
    reason: 'no customer',
  },
};

async function held(s: Scenario, before = 0): Promise<Message> {
  await enqueue(s, 1);
  await change(s, `read_ct = ${before}`);
  const consumer = await s.consumer({ maxReadCount: 3, backoff: 400, lockSeconds: 1_000 });
  return (await consumer.dequeue())!;
}

async function expectSettled(s: Scenario, message: Message, way: Way): Promise<void> {
  const [row] = await stored(s);
  const letters = await dead(s);
  if (way.gone) expect(row).toBeUndefined();
  else expect(row).toMatchObject({ archived: way.archived === true, readCount: message.readCount });
  if (way.due !== undefined) {
    expect(row!.consumer).toBeNull();
    expectBetween(row!.due, way.due, way.due);
  }
  if (way.reason === undefined) expect(letters).toEqual([]);
  else {
    expect(letters).toMatchObject([
      {
        messageId: message.id,
        queueId: s.queue.id,
        reason: way.reason,
        attempts: message.readCount,
        now: true,
      },
    ]);
    expect(letters[0]!.lastError).toMatch(/Error: boom\n {4}at /);
  }
}

async function expectHeld(s: Scenario, message: Message): Promise<void> {
  const [row] = await stored(s);
  const { readCount, consumerWorkerId: consumer } = message;
  expect(row).toMatchObject({ archived: false, readCount, consumer });
  expect(row!.due).toBeGreaterThan(900);
  expect(await dead(s)).toEqual([]);
}

async function client(s: Scenario): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: s.url });
  await client.connect();
  onTestFinished(() => client.end());
  return client;
}

test.each(Object.entries(ways))('message.%s happens once', async (_name, way) => {
  const s = await scenario();
  const message = await held(s, way.before);
  expect(await way.settle(message)).toBe(true);
  await expectSettled(s, message, way);
  expect(await way.settle(message)).toBe(false);
  await expectSettled(s, message, way);
});

test.each(Object.entries(ways))("message.%s happens with the client's commit", async (_name, way) => {
  const s = await scenario();
  const message = await held(s, way.before);
  const mine = await client(s);
  await mine.query('begin');
  expect(await way.settle(message, { client: mine })).toBe(true);
  await expectHeld(s, message);
  await mine.query('commit');
  await expectSettled(s, message, way);
  expect(await way.settle(message, { client: mine })).toBe(false);
  await expectSettled(s, message, way);
});

test.each(Object.entries(ways))(
  "message.%s does nothing where the client's transaction is rolled back",
  async (_name, way) => {
    const s = await scenario();
    const message = await held(s, way.before);
    const mine = await client(s);
    await mine.query('begin');
    expect(await way.settle(message, { client: mine })).toBe(true);
    await mine.query('rollback');
    await expectHeld(s, message);
    expect(await way.settle(message)).toBe(true);
    await expectSettled(s, message, way);
  },
);

test.each(Object.entries(ways))(
  'message.%s answers false, and changes nothing, when a later delivery has begun, to the same consumer too',
  async (_name, way) => {
    const s = await scenario();
    await enqueue(s, 1);
    await change(s, `read_ct = ${way.before ?? 0}`);
    const consumer = await s.consumer({ maxReadCount: 10, lockSeconds: 1_000 });
    const first = (await consumer.dequeue())!;
    await change(s, `vt = now() - interval '1 second'`);
    const second = (await consumer.dequeue())!;
    expect(second).toMatchObject({ id: first.id, readCount: first.readCount + 1 });
    expect(await way.settle(first)).toBe(false);
    await expectHeld(s, second);
    const mine = await client(s);
    expect(await way.settle(first, { client: mine })).toBe(false);
    await expectHeld(s, second);
    expect(await second.archive()).toBe(true);
  },
);

test('what is not done at the same time shares a statement, and each gets its own answer', async () => {
  const s = await scenario();
  await enqueue(s, 5);
  const { sluice, count } = await spied(s);
  const consumer = await sluice.consumer('work', { backoff: 100 });
  const [a, b, c, d, e] = (await consumer.dequeueMany(5)) as [Message, Message, Message, Message, Message];
  expect(await e.archive()).toBe(true);
  const answers = [
    a.release(),
    b.release({ delaySeconds: 70 }),
    c.fail(new Error('boom')),
    d.deadLetter('never'),
    e.release(),
  ];
  expect(await Promise.all(answers)).toEqual([true, true, true, true, false]);
  expect(count('release_messages')).toBe(1);
  const rows = await stored(s);
  expect(rows.map(({ archived }) => archived)).toEqual([false, false, false, true, true]);
  expectBetween(rows[0]!.due, 0, 0);
  expectBetween(rows[1]!.due, 70, 70);
  expectBetween(rows[2]!.due, 50, 100);
  expect((await dead(s)).map(({ messageId, reason }) => [messageId, reason])).toEqual([[d.id, 'never']]);
});
