import { expect, onTestFinished, test } from 'vitest';
import { Config, connect, type Producer, type StoredMessage } from '../../src/index.js';
import { numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { type Bytes, startProxy } from '../support/proxy.js';
import { numbered, scenario, type Scenario } from '../support/scenario.js';
import { recorded, refusing, stored } from './producer-api.js';

const refusal = (reason: string) => ({ code: 'PAYLOAD_INVALID', index: undefined, reason });
/** A scalar in that many arrays. */
const nested = (levels: number) => JSON.parse('['.repeat(levels) + '1' + ']'.repeat(levels)) as unknown;

test('30: by default payloads have up to 1 MiB and no forbidden key, strings have no limit, and depth that of pgqrs’ parser (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer();
  await producer.enqueue('x'.repeat(1_048_574));
  await expect(producer.enqueue('x'.repeat(1_048_575))).rejects.toMatchObject({
    code: 'PAYLOAD_TOO_LARGE',
    actualBytes: 1_048_577,
    maxBytes: 1_048_576,
  });
  // Bytes of UTF-8, not characters.
  await expect(producer.enqueue('é'.repeat(524_288))).rejects.toMatchObject({ actualBytes: 1_048_578 });
  await producer.enqueue(nested(127));
  await expect(producer.enqueue(nested(128))).rejects.toMatchObject({ code: 'PAYLOAD_INVALID' });
  await producer.enqueue({ ['k'.repeat(1_025)]: 'x'.repeat(1_025) });
  for (const key of ['__proto__', 'constructor']) {
    const forbidden = refusal(`Forbidden key '${key}' found in payload`);
    const bad = JSON.parse(`{ "${key}": 1 }`) as unknown;
    for (const payload of [bad, { a: bad }, [[{ a: [bad] }]]])
      await expect(producer.enqueue(payload)).rejects.toMatchObject(forbidden);
  }
  await producer.enqueue({ not: 'constructor', constructors: '"constructor":' });
  expect(await s.count()).toBe(4);
});

test('30: Config.pgqrsDefaults brings pgqrs’ own limits back', async () => {
  const s = await scenario(Config.pgqrsDefaults);
  const producer = await s.producer();
  await producer.enqueue({ ['k'.repeat(1_024)]: 'x'.repeat(1_024) });
  await producer.enqueue(nested(5));
  const broken: [unknown, string][] = [
    ['x'.repeat(1_025), 'String length 1025 exceeds limit 1024'],
    [{ text: 'é'.repeat(513) }, 'String length 1026 exceeds limit 1024'],
    [{ ['k'.repeat(1_025)]: 1 }, `Key '${'k'.repeat(77)}…' length 1025 exceeds limit 1024`],
    [nested(6), 'Object depth 6 exceeds limit 5'],
    [{ a: { constructor: 1 } }, `Forbidden key 'constructor' found in payload`],
  ];
  for (const [payload, reason] of broken)
    await expect(producer.enqueue(payload)).rejects.toMatchObject(refusal(reason));
  await expect(
    producer.enqueue(Array.from({ length: 1_030 }, () => 'x'.repeat(1_020))),
  ).rejects.toMatchObject({
    code: 'PAYLOAD_TOO_LARGE',
    maxBytes: 1_048_576,
  });
  expect(producer.rateLimit).toMatchObject({ perSecond: 1_000, burst: 50 });
  expect(await s.count()).toBe(2);
});

test('30: required keys are asked of the payload itself, which must then be an object (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer({ requiredKeys: ['type', 'to'] });
  await producer.enqueue({ to: null, type: '' });
  const missing = refusal("Required key 'to' missing from payload");
  await expect(producer.enqueue({ type: 'sms', nested: { to: 'x' } })).rejects.toMatchObject(missing);
  for (const payload of [[{ type: 1, to: 2 }], 'type to', 7, null])
    await expect(producer.enqueue(payload)).rejects.toMatchObject(
      refusal("Required key 'type' missing from payload"),
    );
  expect(await s.count()).toBe(1);
});

test('31: the error of a batch names the place of the bad payload, whoever refuses it', async () => {
  const s = await scenario();
  const producer = await s.producer({ maxPayloadBytes: 100 });
  const batch = (bad: unknown) => [...Array.from({ length: 6 }, (_, n) => ({ n })), bad, { n: 7 }];
  await expect(producer.batchEnqueue(batch({ constructor: 1 }))).rejects.toMatchObject({
    code: 'PAYLOAD_INVALID',
    index: 6,
    reason: "Forbidden key 'constructor' found in payload",
    message: "payload at index 6 cannot be stored: Forbidden key 'constructor' found in payload",
  });
  await expect(producer.batchEnqueue(batch('x'.repeat(99)))).rejects.toMatchObject({
    code: 'PAYLOAD_TOO_LARGE',
    index: 6,
    actualBytes: 101,
  });
  await refusing(s, `new.payload->>'n' = '66'`, '23514');
  await expect(producer.batchEnqueue(batch({ n: 66 }))).rejects.toMatchObject({
    code: 'PAYLOAD_INVALID',
    index: 6,
    reason: 'the server refuses it: refused by the test (SQLSTATE 23514)',
  });
  expect(await s.count()).toBe(0);
});

test('31: it does so for a batch of one too, and a payload that is too large stays PAYLOAD_TOO_LARGE (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer({ maxPayloadBytes: 100 });
  const tooLarge = 'x'.repeat(99);
  await expect(producer.batchEnqueue([undefined])).rejects.toMatchObject({
    code: 'PAYLOAD_INVALID',
    index: 0,
  });
  for (const [index, batch] of [[tooLarge], [1, tooLarge]].entries())
    await expect(producer.batchEnqueue(batch)).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE', index });
  expect(await s.count()).toBe(0);
});

/** Waits as long as it was told to, and not for less: a timer alone may be early. */
async function waited(ms: number): Promise<void> {
  const due = performance.now() + ms;
  await eventually('the time is over', () => performance.now() >= due);
}

test('32: RATE_LIMITED tells after how long the same call succeeds, and then it does (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer({
    maxEnqueuePerSecond: 2,
    maxEnqueueBurst: 1,
    whenRateLimited: 'reject',
  });
  const [first, second, batch] = await Promise.allSettled([
    producer.enqueue(1),
    producer.enqueue(2),
    producer.batchEnqueue([3, 4]),
  ]);
  expect(first.status).toBe('fulfilled');
  const limited = { status: 'rejected', reason: { code: 'RATE_LIMITED', transient: true } };
  expect(second).toMatchObject(limited);
  expect(batch).toMatchObject(limited);
  expect(await s.count()).toBe(1);
  // The true time, in which one more comes in; pgqrs says a second, whatever the rate is.
  const { retryAfterMs } = (second as PromiseRejectedResult).reason as { retryAfterMs: number };
  expect(retryAfterMs).toBeGreaterThan(0);
  expect(retryAfterMs).toBeLessThanOrEqual(500);
  await waited(retryAfterMs);
  expect(await producer.enqueue(2)).toMatchObject({ payload: 2 });
  expect(await s.count()).toBe(2);
});

test('32: by default calls above the limit wait for their turn, in order (deviation)', async () => {
  const s = await scenario();
  const limit = { maxEnqueuePerSecond: 20, maxEnqueueBurst: 1 };
  const producer = await s.sluice.producer<{ n: number }>('work', limit);
  const done: number[] = [];
  const begin = performance.now();
  await within(
    10_000,
    'their turns',
    Promise.all([...numbered(6)].map(async (item) => done.push((await producer.enqueue(item)).payload.n))),
  );
  // Five after the first, at 20 a second.
  expect(performance.now() - begin).toBeGreaterThan(249);
  expect(done).toEqual(numbers(6));
  expect(await s.delivered()).toEqual(numbers(6));
});

test('33: without a limit there is none, and with one it tells what is available, rate and burst', async () => {
  const s = await scenario({ ...Config.pgqrsDefaults, maxEnqueuePerSecond: undefined });
  const free = await s.producer();
  expect(free.rateLimit).toBeUndefined();
  for (let n = 0; n < 3; n++) await free.batchEnqueue([...numbered(500)]);
  // So slow that nothing comes in meanwhile.
  const limited = await s.producer({ maxEnqueuePerSecond: 0.001, maxEnqueueBurst: 10 });
  const available = (messages: number) => ({
    available: expect.closeTo(messages, 0.5) as number,
    perSecond: 0.001,
    burst: 10,
  });
  expect(limited.rateLimit).toEqual(available(10));
  await limited.enqueue(1);
  await limited.batchEnqueue([1, 2, 3]);
  expect(limited.rateLimit).toEqual(available(6));
  expect(await s.count()).toBe(1_504);
});

test('33: refused payloads cost nothing, and a batch above the burst is charged to those after it (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer({
    maxEnqueuePerSecond: 0.001,
    maxEnqueueBurst: 10,
    whenRateLimited: 'reject',
    maxPayloadBytes: 100,
  });
  await expect(producer.enqueue('x'.repeat(200))).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
  await expect(producer.enqueue({ constructor: 1 })).rejects.toMatchObject({ code: 'PAYLOAD_INVALID' });
  expect(producer.rateLimit?.available).toBe(10);
  expect(await producer.batchEnqueue([...numbered(25)].map(({ n }) => n))).toHaveLength(25);
  expect(producer.rateLimit?.available).toBeCloseTo(-15, 0);
  await expect(producer.enqueue(1)).rejects.toMatchObject({ code: 'RATE_LIMITED' });
  expect(producer.rateLimit?.available).toBeCloseTo(-15, 0);
  expect(await s.count()).toBe(25);
});

/** The page's own pattern, without its pauses. */
async function enqueueWithRetry(
  producer: Producer,
  payload: unknown,
  onFailure: (error: unknown, attempt: number) => void,
): Promise<StoredMessage> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await producer.enqueue(payload);
    } catch (error) {
      onFailure(error, attempt);
    }
  }
}

async function proxied(s: Scenario) {
  const proxy = await startProxy(s.url);
  const sluice = await connect({ dsn: proxy.url, schema: s.schema, maxConnections: 1 });
  onTestFinished(async () => {
    await sluice.close().catch(() => undefined);
    await proxy[Symbol.asyncDispose]();
  });
  return { proxy, sluice };
}

test('34: a failed enqueue leaves no row, so a caller’s retries around it put exactly one', async () => {
  const s = await scenario();
  const { proxy, sluice } = await proxied(s);
  const producer = await sluice.producer('work', { retries: 0 });
  proxy.door = 'shut';
  proxy.cutAll();
  // The pool's one connection is used up: from now on nothing is sent before there is a new one.
  await expect(sluice.admin.listQueues()).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
  const failures: unknown[] = [];
  const message = await within(
    20_000,
    'the retries',
    enqueueWithRetry(producer, { n: 1 }, (error, attempt) => {
      failures.push(error);
      if (attempt === 3) proxy.door = 'open';
    }),
  );
  expect(failures.length).toBeGreaterThanOrEqual(3);
  for (const failure of failures)
    expect(failure).toMatchObject({ code: 'CONNECTION_FAILED', transient: true });
  expect(await stored(s)).toEqual([message]);
});

test('34: enqueue tries again by itself where it certainly did nothing, as often as it was told to', async () => {
  const s = await scenario();
  const { sluice, statements } = await recorded(s);
  const producer = await sluice.producer('work', { retries: 2, retryBaseMs: 1 });
  const deadlock = { code: 'DATABASE_ERROR', sqlState: '40P01', transient: true };
  // The first five tries fail; a sequence is never rolled back.
  await refusing(s, `nextval('${s.schema}.tries') <= 5`, '40P01');
  statements();
  await expect(producer.enqueue({ n: 1 })).rejects.toMatchObject(deadlock);
  expect(statements()).toEqual(['enqueue', 'enqueue', 'enqueue']);
  expect(await s.count()).toBe(0);
  const message = await producer.enqueue({ n: 1 });
  expect(statements()).toEqual(['enqueue', 'enqueue', 'enqueue']);
  expect(await stored(s)).toEqual([message]);
});

test.each<[fate: 'cut' | 'passThenCut', rows: number]>([
  ['cut', 0],
  ['passThenCut', 1],
])(
  '34: whose answer is lost is not sent again, and the error says so (deviation): %s',
  async (fate, rows) => {
    const s = await scenario();
    const { proxy, sluice } = await proxied(s);
    const producer = await sluice.producer('work');
    let sent = 0;
    proxy.judge = ({ from, data }: Bytes) => {
      if (from !== 'client' || !data.includes('the needle')) return 'pass';
      sent++;
      return fate;
    };
    await expect(within(20_000, 'the error', producer.enqueue({ text: 'the needle' }))).rejects.toMatchObject(
      { code: 'AMBIGUOUS_ENQUEUE', transient: false },
    );
    await within(20_000, 'close', producer.close());
    await eventually('the rows', async () => (await s.count()) === rows);
    expect(sent).toBe(1);
  },
);

test('35: 1,000 tasks share a producer and its statements, and each gets its own message (deviation)', async () => {
  const s = await scenario();
  const { sluice, statements } = await recorded(s);
  const producer = await sluice.producer('work');
  statements();
  const messages = await Promise.all(
    [...numbered(1_000)].map(async (item) => {
      await Promise.resolve();
      const message = await producer.enqueue(item);
      expect(message.payload).toEqual(item);
      return message;
    }),
  );
  const sent = statements();
  expect(new Set(sent)).toEqual(new Set(['enqueue']));
  expect(sent.length).toBeLessThan(500);
  expect(new Set(messages.map(({ id }) => id)).size).toBe(1_000);
  const rows = new Map((await stored(s)).map((row) => [row.id, row]));
  expect(rows.size).toBe(1_000);
  for (const message of messages) expect(rows.get(message.id)).toEqual(message);
});

test('36: each awaited enqueue is a statement of its own, and visible at once to another connection', async () => {
  const s = await scenario();
  const { sluice, statements } = await recorded(s);
  const producer = await sluice.producer('work');
  statements();
  for (let n = 1; n <= 20; n++) {
    const { id } = await producer.enqueue({ n });
    // The scenario's own pool.
    const { rows } = await s.pool.query(
      `select id::text, payload from ${s.schema}.pgqrs_messages where id = $1`,
      [id],
    );
    expect(rows).toEqual([{ id, payload: { n } }]);
    expect(await s.count()).toBe(n);
    expect(statements()).toEqual(['enqueue']);
  }
});
