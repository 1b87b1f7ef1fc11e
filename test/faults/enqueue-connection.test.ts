import { expect, test, vi } from 'vitest';
import type { Producer, ProducerOptions, StoredMessage } from '../../src/index.js';
import { blocked, failureOf, lockMessages, order, stored } from '../enqueue/support.js';
import { behindProxy, type BehindProxy } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import type { Bytes, Fate } from '../support/proxy.js';
import { scenario } from '../support/scenario.js';

const AMBIGUOUS = 'AMBIGUOUS_ENQUEUE';
const QUICK: ProducerOptions = { retryBaseMs: 1, retryMaxMs: 20 };

/** Whether the client sends messages of single calls: the payloads of this file have a mark. */
const MARK = '"marked"';
const sendsMessages = ({ from, data }: Bytes) => from === 'client' && data.includes(MARK);
/** Whether the server is ready for more: what was sent is committed. */
const isReady = ({ from, data }: Bytes) => from === 'server' && data.includes('Z\0\0\0\u0005I');

const item = (n: number) => ({ n, marked: true });

async function producerBehind(behind: BehindProxy, options: ProducerOptions = QUICK) {
  const producer = await behind.sluiceThrough.producer('work', options);
  let sent = 0;
  let answer: Fate = 'pass';
  let request: Fate = 'pass';
  behind.proxy.judge = (bytes) => {
    const { notes } = bytes.link;
    if (sendsMessages(bytes)) {
      sent++;
      notes.add('sent');
      return request;
    }
    if (notes.has('sent') && isReady(bytes)) {
      notes.delete('sent');
      return answer;
    }
    return 'pass';
  };
  return {
    producer,
    sent: () => sent,
    fate: (of: { request?: Fate; answer?: Fate }) => {
      request = of.request ?? 'pass';
      answer = of.answer ?? 'pass';
    },
  };
}

/** A single call and a batch, at the same time. */
const bothWays = (producer: Producer, n: number): Promise<unknown>[] => [
  producer.enqueue(item(n)),
  producer.batchEnqueue([item(n + 1), item(n + 2)]),
];

test('calls over connections that broke while they were idle make new ones, and are in once', async () => {
  const behind = await behindProxy();
  const { producer, sent } = await producerBehind(behind);
  await Promise.all(bothWays(producer, 0));
  behind.proxy.cutAll();
  await eventually('the pool to notice', () => behind.sluiceThrough.admin.pool.totalCount === 0);
  await Promise.all(bothWays(producer, 3));
  expect(sent()).toBe(4);
  expect((await order(behind)).sort()).toEqual([0, 1, 2, 3, 4, 5]);
});

test('a connection that breaks before the statement is sent costs a retry, and the message is in once', async () => {
  const behind = await behindProxy();
  const { producer, sent } = await producerBehind(behind, { ...QUICK, retries: 3 });
  behind.proxy.cutAll();
  await eventually('the pool to notice', () => behind.sluiceThrough.admin.pool.totalCount === 0);
  const { judge } = behind.proxy;
  let cuts = 0;
  // The first bytes of a new connection, three times, and once its answer to the log-in.
  behind.proxy.judge = (bytes) => {
    if (cuts < 2 && bytes.from === 'client') return (cuts++, 'cut');
    if (cuts < 3 && bytes.from === 'server') return (cuts++, 'cut');
    return judge(bytes);
  };
  const { id } = await within(10_000, 'the call', producer.enqueue(item(0)));
  expect(cuts).toBe(3);
  expect(sent()).toBe(1);
  expect(await stored(behind)).toMatchObject([{ id, n: 0 }]);
});

test.each([
  ['the statement itself is lost', { request: 'cut' } as const, 0],
  ['the statement arrives', { request: 'passThenCut' } as const, undefined],
  ['the server has committed', { answer: 'cut' } as const, 3],
])(
  'a connection that breaks when %s makes the calls ambiguous, and they are not sent again',
  async (_, fate, rows) => {
    const behind = await behindProxy();
    const { producer, sent, fate: decide } = await producerBehind(behind);
    await Promise.all(bothWays(producer, 0));
    decide(fate);
    const calls = bothWays(producer, 10);
    for (const call of calls) call.catch(() => undefined);
    for (const call of calls) {
      expect(await failureOf(call)).toMatchObject({
        code: AMBIGUOUS,
        transient: false,
        cause: { code: 'CONNECTION_FAILED' },
      });
    }
    decide({});
    await within(10_000, 'the next calls', Promise.all(bothWays(producer, 20)));
    expect(sent()).toBe(6);
    const found = (await order(behind)).sort((a, b) => a - b);
    const between = found.filter((n) => n >= 10 && n < 20);
    if (rows !== undefined) expect(between).toHaveLength(rows);
    expect(new Set(between).size).toBe(between.length);
    expect(found.filter((n) => n < 10 || n >= 20)).toEqual([0, 1, 2, 20, 21, 22]);
  },
);

test('the next calls, which waited for a statement whose connection broke, are sent over another', async () => {
  const behind = await behindProxy();
  const { producer, sent, fate } = await producerBehind(behind);
  await producer.enqueue(item(0));
  const letGo = await lockMessages(behind);
  const lost = producer.enqueue(item(1));
  lost.catch(() => undefined);
  await blocked(behind);
  const waiting = [2, 3, 4].map((n) => producer.enqueue(item(n)));
  fate({});
  behind.proxy.cutAll();
  expect(await failureOf(lost)).toMatchObject({ code: AMBIGUOUS });
  await letGo();
  await within(10_000, 'those that waited', Promise.all(waiting));
  expect(sent()).toBe(3);
  expect((await order(behind)).filter((n) => n !== 1)).toEqual([0, 2, 3, 4]);
});

test('a backend that is ended while the statement waits for a lock makes it ambiguous, and nobody else', async () => {
  const s = await scenario({ maxConnections: 1 });
  const producer = await s.producer(QUICK);
  await producer.enqueue({ n: 0 });
  const letGo = await lockMessages(s);
  const ended = producer.enqueue({ n: 1 });
  ended.catch(() => undefined);
  const [pid] = await blocked(s);
  // These are sent in the very turn in which the end is noticed, and must not meet the dying connection.
  const waiting = [2, 3, 4].map((n) => producer.enqueue({ n }));
  const outcomes = Promise.allSettled(waiting);
  await s.pool.query('select pg_terminate_backend($1)', [pid]);
  expect(await failureOf(ended)).toMatchObject({ code: AMBIGUOUS, cause: { sqlState: '57P01' } });
  await letGo();
  expect(await within(10_000, 'those that waited', outcomes)).toMatchObject(
    [2, 3, 4].map((n) => ({ status: 'fulfilled', value: { payload: { n } } })),
  );
  expect(await order(s)).toEqual([0, 2, 3, 4]);
});

test('an answer that never comes is waited for half a minute, and then the call is ambiguous', async () => {
  const behind = await behindProxy();
  const { producer, sent, fate } = await producerBehind(behind);
  await producer.enqueue(item(0));
  fate({ answer: 'hole' });
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    const call = producer.enqueue(item(1));
    let settled = false;
    const failure = failureOf(call, 20_000).finally(() => (settled = true));
    await eventually('the message', async () => (await behind.count()) === 2);
    vi.advanceTimersByTime(29_000);
    expect(await behind.count()).toBe(2);
    expect(settled).toBe(false);
    vi.advanceTimersByTime(1_001);
    expect(await failure).toMatchObject({
      code: AMBIGUOUS,
      cause: { code: 'TIMEOUT', ms: expect.closeTo(30_000, -3) as number },
    });
  } finally {
    vi.useRealTimers();
  }
  fate({});
  await producer.enqueue(item(2));
  expect(sent()).toBe(3);
  expect(await order(behind)).toEqual([0, 1, 2]);
});

test('while the door is shut calls are tried again, and are in once when it opens', async () => {
  const behind = await behindProxy();
  const { producer, sent } = await producerBehind(behind, { ...QUICK, retries: 1_000 });
  await producer.enqueue(item(0));
  behind.proxy.door = 'shut';
  behind.proxy.cutAll();
  await eventually('the pool to notice', () => behind.sluiceThrough.admin.pool.totalCount === 0);
  const knocks = vi.spyOn(behind.sluiceThrough.admin.pool, 'connect');
  const results: StoredMessage[] = [];
  const calls = [1, 2, 3].map((n) => producer.enqueue(item(n)).then((message) => results.push(message)));
  const batch = producer.batchEnqueue([item(10), item(11)]);
  await eventually('some tries', () => knocks.mock.calls.length > 20);
  expect(results).toEqual([]);
  behind.proxy.door = 'open';
  await within(10_000, 'the calls', Promise.all([...calls, batch]));
  expect(sent()).toBe(3);
  expect((await order(behind)).sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 10, 11]);
});

test('when the door stays shut calls fail with the connection’s error once their tries are used up', async () => {
  const behind = await behindProxy();
  const { producer } = await producerBehind(behind, { ...QUICK, retries: 2 });
  behind.proxy.door = 'shut';
  behind.proxy.cutAll();
  await eventually('the pool to notice', () => behind.sluiceThrough.admin.pool.totalCount === 0);
  for (const call of bothWays(producer, 0).map((each) => failureOf(each))) {
    expect(await call).toMatchObject({ code: 'CONNECTION_FAILED', transient: true });
  }
  behind.proxy.door = 'open';
  await producer.enqueue(item(0));
  expect(await order(behind)).toEqual([0]);
});

test('single calls through a line that breaks all the time are each in once or ambiguous', async () => {
  const behind = await behindProxy();
  const { producer } = await producerBehind(behind);
  const fates: Fate[] = ['pass', 'pass', 'cut', 'pass', 'passThenCut', 'pass'];
  let at = 0;
  const { judge } = behind.proxy;
  behind.proxy.judge = (bytes) => {
    const sends = sendsMessages(bytes);
    const answers = bytes.link.notes.has('sent') && isReady(bytes);
    judge(bytes);
    return sends || answers ? fates[at++ % fates.length]! : 'pass';
  };
  const known: number[] = [];
  const unknown: number[] = [];
  const tasks = Array.from({ length: 20 }, async (_, task) => {
    for (let round = 0; round < 15; round++) {
      const n = task * 100 + round;
      try {
        await producer.enqueue(item(n));
        known.push(n);
      } catch (error) {
        expect(error).toMatchObject({ code: AMBIGUOUS });
        unknown.push(n);
      }
    }
  });
  await within(30_000, 'the tasks', Promise.all(tasks));
  behind.proxy.judge = () => 'pass';
  const found = await order(behind);
  expect(new Set(found).size).toBe(found.length);
  const inTable = new Set(found);
  for (const n of known) expect(inTable.has(n)).toBe(true);
  expect(known.length + unknown.length).toBe(300);
  expect(unknown.length).toBeGreaterThan(20);
  expect(known.length).toBeGreaterThan(20);
});
