import { expect, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { type Message, WorkerFencedError } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';
import { change, enqueue, ns, stored } from './support.js';

async function holding(count: number, lockSeconds = 1_000) {
  const s = await scenario();
  await enqueue(s, count);
  const spy = await spied(s);
  const consumer = await spy.sluice.consumer('work', { maxReadCount: 100 });
  const messages = await consumer.dequeueMany(count, { lockSeconds });
  return { s, ...spy, consumer, messages };
}

type Held = Awaited<ReturnType<typeof holding>>;

/** An acknowledgement whose answer is kept back: those that follow wait for it. */
async function underWay({ answered, messages }: Held, by: 'archive' | 'delete') {
  const gate = deferred();
  const seen = deferred();
  answered(`${by}_messages`, () => {
    seen.resolve();
    return gate.promise;
  });
  const first = messages[0]![by]();
  await within(5_000, 'the first statement', seen.promise);
  return { first, letGo: () => gate.resolve() };
}

const archivedOrGone = async (s: Scenario) =>
  (await stored(s)).filter(({ archived }) => archived).map(({ n }) => n);

test.each(['archive', 'delete'] as const)(
  'calls of %s() at once are one statement, and each gets its own answer',
  async (by) => {
    const held = await holding(50);
    const { s, consumer, messages, count } = held;
    await change(s, 'read_ct = read_ct + 1', `(payload->>'n')::int % 3 = 0`);
    const answers = messages.map((message, at) => (at % 2 === 0 ? message[by]() : consumer[by](message)));
    expect(await Promise.all(answers)).toEqual(messages.map((_, n) => n % 3 !== 0));
    expect(count(`${by}_messages`)).toBe(1);
    const left = (await stored(s)).filter(({ archived }) => !archived);
    expect(left.map(({ n }) => n)).toEqual(ns(messages).filter((n) => n % 3 === 0));
  },
);

test('calls that come while a statement is under way share the next one', async () => {
  const held = await holding(40);
  const { first, letGo } = await underWay(held, 'archive');
  const answers: Promise<boolean>[] = [];
  for (const message of held.messages.slice(1)) {
    answers.push(message.archive());
    await Promise.resolve();
  }
  letGo();
  expect(await first).toBe(true);
  expect(await Promise.all(answers)).toEqual(Array(39).fill(true));
  expect(held.count('archive_messages')).toBe(2);
});

test('the same delivery twice in one statement is held for both; after that it is not', async () => {
  const { consumer, messages, count } = await holding(2);
  const [message, byId] = messages as [Message, Message];
  const twice = [message.archive(), message.archive(), consumer.archive(byId.id), byId.archive()];
  expect(await Promise.all(twice)).toEqual([true, true, true, true]);
  expect(count('archive_messages')).toBe(1);
  expect(await Promise.all([message.archive(), consumer.archive(byId.id)])).toEqual([false, false]);
});

test('two deliveries of a message in one statement: only the later one is held', async () => {
  const { s, consumer, messages, count } = await holding(1);
  await change(s, `vt = now() - interval '1 second'`);
  const [later] = await consumer.dequeueMany(1);
  expect(await Promise.all([messages[0]!.archive(), later!.archive()])).toEqual([false, true]);
  expect(count('archive_messages')).toBe(1);
});

test.each(['archive', 'delete'] as const)(
  'calls of %s() that wait when a claim begins travel with it, and do not wait for anything else',
  async (by) => {
    const held = await holding(20);
    const { s, consumer, messages, count } = held;
    await change(s, 'read_ct = read_ct + 1', `payload->>'n' = '5'`);
    await enqueue(s, 7, 100);
    const { first, letGo } = await underWay(held, by);
    const answers = messages.slice(1).map((message) => message[by]());
    const claimed = await within(5_000, 'the claim', consumer.dequeueMany(10));
    expect(await within(5_000, 'the answers', Promise.all(answers))).toEqual(
      messages.slice(1).map((_, at) => at + 1 !== 5),
    );
    expect(ns(claimed)).toEqual([100, 101, 102, 103, 104, 105, 106]);
    expect([count(`claim_messages_and_${by}`), count(`${by}_messages`)]).toEqual([1, 1]);
    letGo();
    expect(await first).toBe(true);
    if (by === 'archive') expect(await archivedOrGone(s)).toHaveLength(19);
    else expect(await stored(s)).toHaveLength(8);
  },
);

test('an acknowledgement does not wait for a claim that is under way', async () => {
  const held = await holding(3);
  const gate = deferred();
  held.answered('claim_messages', () => gate.promise);
  const claiming = held.consumer.dequeueMany(5);
  await eventually('the claim', () => held.count('claim_messages') >= 2);
  const answers = Promise.all(held.messages.map((message) => message.archive()));
  expect(await within(5_000, 'the answers', answers)).toEqual([true, true, true]);
  gate.resolve();
  expect(await claiming).toEqual([]);
});

test.each(['archive', 'delete'] as const)(
  'messages whose lease is over at the moment in which %s() travels with a claim are not delivered again',
  async (by) => {
    const held = await holding(61, 0);
    const { consumer, messages, count } = held;
    const settled = new Set<number>();
    for (let round = 0; round < 20; round++) {
      const [first, ...others] = messages.slice(3 * round, 3 * round + 3) as [Message, Message, Message];
      const { first: alone, letGo } = await underWay({ ...held, messages: [first] }, by);
      const answers = others.map((message) => message[by]());
      // Everything is due, also what travels with it.
      const claimed = await consumer.dequeueMany(100, { lockSeconds: 0 });
      expect(await Promise.all(answers)).toEqual([true, true]);
      for (const n of ns(others)) settled.add(n);
      expect(ns(claimed).filter((n) => settled.has(n))).toEqual([]);
      letGo();
      expect(await alone).toBe(true);
      settled.add(ns([first])[0]!);
      messages.splice(0, messages.length, ...keepOrder(messages, claimed));
    }
    expect(count(`claim_messages_and_${by}`)).toBe(20);
    expect((await stored(held.s)).filter(({ archived }) => !archived)).toHaveLength(1);
  },
);

/** Each in its place, as its latest delivery. */
function keepOrder(before: Message[], claimed: Message[]): Message[] {
  const latest = new Map(claimed.map((message) => [message.id, message]));
  return before.map((message) => latest.get(message.id) ?? message);
}

test('what travels with the claim of a fenced consumer is settled all the same', async () => {
  const held = await holding(4);
  const { first, letGo } = await underWay(held, 'archive');
  const answers = held.messages.slice(1).map((message) => message.archive());
  await held.s.pool.query(`update ${held.s.schema}.pgqrs_workers set started_at = now() where id = $1`, [
    held.consumer.workerId,
  ]);
  await expect(held.consumer.dequeueMany(5)).rejects.toThrow(WorkerFencedError);
  expect(await Promise.all(answers)).toEqual([true, true, true]);
  expect(held.count('claim_messages_and_archive')).toBe(1);
  letGo();
  expect(await first).toBe(true);
  expect(await archivedOrGone(held.s)).toEqual([0, 1, 2, 3]);
});

test('what travels with the claim of a paused queue is settled all the same', async () => {
  const held = await holding(4);
  await enqueue(held.s, 1, 100);
  await held.s.pool.query(
    `insert into ${held.s.schema}.sluice_queues (queue_id, paused_at) values ($1, now())`,
    [held.s.queue.id],
  );
  const { letGo } = await underWay(held, 'archive');
  const answers = held.messages.slice(1).map((message) => message.archive());
  expect(await held.consumer.dequeueMany(5)).toEqual([]);
  expect(await Promise.all(answers)).toEqual([true, true, true]);
  expect(held.count('claim_messages_and_archive')).toBe(1);
  letGo();
});

test('a claim that the server refuses leaves the acknowledgements to go alone', async () => {
  const held = await holding(4);
  const { s, consumer, messages, count } = held;
  await enqueue(s, 1, 100);
  // Only who claims sets the first time of delivery.
  await s.pool.query(`alter table ${s.schema}.pgqrs_messages add constraint no_more check
    (payload->>'n' <> '100' or dequeued_at is null)`);
  const { first, letGo } = await underWay(held, 'delete');
  const answers = messages.slice(1).map((message) => message.delete());
  await expect(consumer.dequeueMany(5)).rejects.toMatchObject({ sqlState: '23514', constraint: 'no_more' });
  letGo();
  expect(await Promise.all([first, ...answers])).toEqual([true, true, true, true]);
  expect([count('claim_messages_and_delete'), count('delete_messages')]).toEqual([1, 2]);
  expect((await stored(s)).map(({ n }) => n)).toEqual([100]);
});
