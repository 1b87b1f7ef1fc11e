import { expect, onTestFinished, test } from 'vitest';
import { Acknowledgements, Asked } from '../../src/consume/acknowledgements.js';
import { deferred } from '../../src/deferred.js';
import { ConnectionError, DatabaseError, type Message, TimeoutError } from '../../src/index.js';
import type { Delivery } from '../../src/sql/settle.js';
import { eventually, within } from '../support/eventually.js';
import { type Fate, startProxy } from '../support/proxy.js';
import { scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';
import { dead, enqueue, open, running, runToEnd, stored, summary } from './support.js';

const codeOf = (error: unknown) => (error as { code: string }).code;

async function behindProxy(count: number) {
  const s = await scenario();
  await enqueue(s, count);
  const proxy = await startProxy(s.url);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  const spy = await spied({ ...s, url: proxy.url });
  const consumer = await spy.sluice.consumer('work', { backoff: 100 });
  /** The next statement of that name meets this fate. */
  const once = (name: string, fate: Fate) => {
    let met = false;
    proxy.judge = ({ from, data }) => {
      if (met || from !== 'client' || !data.includes(`sluice:${name}`)) return 'pass';
      met = true;
      return fate;
    };
    return () => met;
  };
  return { s, proxy, ...spy, consumer, once };
}

test.each<{ by: 'archive' | 'delete'; fate: Fate; answer: unknown }>([
  { by: 'archive', fate: 'cut', answer: true },
  { by: 'archive', fate: 'passThenCut', answer: true },
  { by: 'delete', fate: 'cut', answer: true },
  // Nobody can tell any more who has deleted it.
  { by: 'delete', fate: 'passThenCut', answer: 'CONNECTION_FAILED' },
])('$by(): the connection breaks ($fate), the answer is $answer', async ({ by, fate, answer }) => {
  const { s, consumer, once } = await behindProxy(3);
  const messages = await consumer.dequeueMany(3);
  const met = once(`${by}_messages`, fate);
  const answers = messages.map((message) => message[by]().catch(codeOf));
  expect(await within(10_000, 'the answers', Promise.all(answers))).toEqual([answer, answer, answer]);
  expect(met()).toBe(true);
  expect(await open(s)).toBe(0);
});

test.each<{ by: 'archive' | 'delete'; fate: Fate; answer: unknown }>([
  { by: 'archive', fate: 'cut', answer: true },
  { by: 'archive', fate: 'passThenCut', answer: true },
  { by: 'delete', fate: 'cut', answer: true },
  { by: 'delete', fate: 'passThenCut', answer: 'CONNECTION_FAILED' },
])(
  '$by() with a claim: the connection breaks ($fate), the answer is $answer',
  async ({ by, fate, answer }) => {
    const { s, consumer, once, answered, count } = await behindProxy(5);
    const [first, ...messages] = await consumer.dequeueMany(5);
    const gate = deferred();
    const seen = deferred();
    answered(`${by}_messages`, () => {
      seen.resolve();
      return gate.promise;
    });
    const alone = first![by]();
    await seen.promise;
    const met = once(`claim_messages_and_${by}`, fate);
    const answers = messages.map((message) => message[by]().catch(codeOf));
    await expect(consumer.dequeueMany(5)).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
    // Though the one before them has no answer yet.
    expect(await within(10_000, 'the answers', Promise.all(answers))).toEqual(Array(4).fill(answer));
    gate.resolve();
    expect(await alone).toBe(true);
    expect(met()).toBe(true);
    expect([count(`claim_messages_and_${by}`), count(`${by}_messages`)]).toEqual([1, 2]);
    expect(await open(s)).toBe(0);
  },
);

test('a delivery that somebody else has taken over is not ours because the connection broke', async () => {
  const { s, consumer, once } = await behindProxy(1);
  const message = (await consumer.dequeue({ lockSeconds: 0 }))!;
  const theirs = (await (await s.consumer()).dequeue())!;
  const met = once('archive_messages', 'passThenCut');
  expect(await message.archive()).toBe(false);
  expect(met()).toBe(true);
  expect(await theirs.archive()).toBe(true);
  const before = (await stored(s))[0];
  const again = once('archive_messages', 'passThenCut');
  expect(await message.archive()).toBe(false);
  expect(again()).toBe(true);
  expect((await stored(s))[0]!.consumer).toBe(before!.consumer);
});

test('a dead letter whose connection breaks afterwards is an error rather than a wrong answer', async () => {
  const { s, consumer, once } = await behindProxy(1);
  const message = (await consumer.dequeue())!;
  once('release_messages', 'passThenCut');
  await expect(message.deadLetter('never')).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
  expect(await dead(s)).toMatchObject([{ messageId: message.id, reason: 'never' }]);
});

test('acknowledgements outlive a server that is away for a moment', async () => {
  const { s, consumer, proxy } = await behindProxy(20);
  const messages = await consumer.dequeueMany(20);
  let tries = 0;
  proxy.door = 'shut';
  proxy.cutAll();
  const answers = Promise.all([
    ...messages.slice(0, 10).map((message: Message) => message.archive()),
    ...messages.slice(10).map((message: Message) => message.fail(new Error('boom'))),
  ]);
  await expect(consumer.dequeue()).rejects.toThrow(ConnectionError);
  await eventually('some more failures', async () => {
    await consumer.dequeue().catch(() => tries++);
    return tries > 2;
  });
  proxy.door = 'open';
  expect(await within(10_000, 'the answers', answers)).toEqual(Array(20).fill(true));
  expect(await open(s)).toBe(10);
});

test('a run whose connections break now and then archives everything, and loses nothing', async () => {
  const { s, consumer, proxy } = await behindProxy(200);
  let seen = 0;
  proxy.judge = ({ from, data }) => {
    if (from !== 'client' || !/sluice:(archive_messages|claim_messages_and)/.test(data.toString('latin1')))
      return 'pass';
    return ++seen % 4 === 0 ? 'passThenCut' : seen % 4 === 2 ? 'cut' : 'pass';
  };
  const times = new Map<number, number>();
  const done = await runToEnd(
    s,
    consumer,
    ({ payload: { n } }) => void times.set(n, (times.get(n) ?? 0) + 1),
    { concurrency: 5, prefetch: 5, lockSeconds: 1 },
  );
  proxy.judge = () => 'pass';
  expect(seen).toBeGreaterThan(8);
  expect(times.size).toBe(200);
  // A claim whose answer is lost comes again when its leases end; nothing of what was handled does.
  expect([...new Set(times.values())]).toEqual([1]);
  expect(done).toEqual(summary({ done: 200 }));
});

test('an error that will not pass, whatever the message, ends the run with it, and what was claimed goes back', async () => {
  const { s, consumer } = await behindProxy(20);
  // Nothing that is leased can be changed: an error of the server's, and none about a row.
  await s.pool.query(`create function ${s.schema}.broken() returns trigger language plpgsql as
    $$ begin raise exception 'out of order' using errcode = '58000'; end $$`);
  await s.pool.query(`create trigger broken before update on ${s.schema}.pgqrs_messages for each row
    when (new.archived_at is not null) execute function ${s.schema}.broken()`);
  const run = running(consumer, () => undefined, { concurrency: 1, prefetch: 5 });
  const error = await within(10_000, 'the end', run.ended).catch((error: unknown) => error);
  expect(error).toBeInstanceOf(DatabaseError);
  expect(error).toMatchObject({ sqlState: '58000' });
  const counts = (await stored(s)).map(({ readCount }) => readCount);
  expect(counts.filter((count) => count === 0).length).toBeGreaterThan(8);
});

function add(to: Acknowledgements, delivery: Delivery): Promise<boolean> {
  const asked = new Asked(delivery);
  to.add(asked);
  return asked.answer;
}

test('acknowledgements end with the error that the server keeps giving, each of them', async () => {
  const refused = new DatabaseError('no', '58000');
  const acknowledgements = new Acknowledgements({
    send: () => Promise.reject(refused),
    hurry: new AbortController().signal,
  });
  const answers = await Promise.allSettled(
    ['1', '2'].map((id) => add(acknowledgements, { id, readCount: 1 })),
  );
  expect(answers).toEqual([1, 2].map(() => ({ status: 'rejected', reason: refused })));
  await acknowledgements.idle();
});

test('acknowledgements in a hurry are not tried again', async () => {
  let sent = 0;
  const closing = new AbortController();
  const acknowledgements = new Acknowledgements({
    send: () => {
      sent++;
      return Promise.reject(new ConnectionError('away', true));
    },
    hurry: closing.signal,
  });
  const answer = add(acknowledgements, { id: '1', readCount: 1 });
  await eventually('some tries', () => sent > 2);
  closing.abort();
  await expect(within(1_000, 'the answer', answer)).rejects.toThrow('away');
  await acknowledgements.idle();
  await expect(add(acknowledgements, { id: '2', readCount: 1 })).rejects.toThrow('away');
});

/** What the server answers to a group of that many, in turn. */
function inGroups(fails: (ids: string[]) => Error | undefined) {
  const groups: number[] = [];
  const acknowledgements = new Acknowledgements({
    send: (deliveries) => {
      groups.push(deliveries.length);
      const error = fails(deliveries.map(({ id }) => id));
      return error ? Promise.reject(error) : Promise.resolve(deliveries.map(() => true));
    },
    hurry: new AbortController().signal,
  });
  const answers = (count: number) =>
    Promise.allSettled(
      Array.from({ length: count }, (_, at) => add(acknowledgements, { id: String(at), readCount: 1 })),
    );
  return { groups, answers, acknowledgements };
}

test('a group that is refused is halved until what is refused stands alone', async () => {
  const refused = new DatabaseError('no', '23503');
  const { groups, answers, acknowledgements } = inGroups((ids) =>
    ids.some((id) => id === '3' || id === '700') ? refused : undefined,
  );
  const found = await answers(1_000);
  await acknowledgements.idle();
  expect(found.flatMap(({ status }, at) => (status === 'rejected' ? [at] : []))).toEqual([3, 700]);
  expect(groups[0]).toBe(1_000);
  expect(groups.length).toBeLessThan(2 * 2 * Math.log2(1_000) + 4);
});

test.each([
  new DatabaseError('canceling statement due to statement timeout', '57014'),
  new TimeoutError('it', 1),
])(
  'a group for which the time is too short is made smaller, and so are the next ones: $name',
  async (late) => {
    const { groups, answers, acknowledgements } = inGroups((ids) => (ids.length > 100 ? late : undefined));
    for (const { status } of await answers(1_000)) expect(status).toBe('fulfilled');
    await acknowledgements.idle();
    const late1 = groups.filter((size) => size > 100).length;
    for (const { status } of await answers(1_000)) expect(status).toBe('fulfilled');
    const late2 = groups.filter((size) => size > 100).length - late1;
    expect(late1).toBeGreaterThan(2);
    // It tries now and then whether more will do.
    expect(late2).toBeLessThan(late1);
  },
);
