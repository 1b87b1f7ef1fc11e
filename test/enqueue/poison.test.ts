import { inspect } from 'node:util';
import type pg from 'pg';
import { expect, test } from 'vitest';
import { PayloadInvalidError, type Producer } from '../../src/index.js';
import { numbered, scenario } from '../support/scenario.js';
import { constrain, failureOf, onInsert, order, watched } from './support.js';

const SECRET = 'a-secret-of-the-payload';

const numbers = (count: number) => Array.from({ length: count }, (_, n) => n);

/** Wherever an error may be printed, and whatever it was caused by. */
function expectNoPayload(error: unknown): void {
  const shown = [inspect(error, { depth: 20, showHidden: true }), String(error), JSON.stringify(error)];
  for (let at = error; at instanceof Error; at = at.cause) shown.push(at.message, at.stack ?? '');
  for (const text of shown) expect(text).not.toContain(SECRET);
}

/** Sends all at once; those in `poison` get something that makes `bad` of it. */
async function sendAll(producer: Producer, count: number, poison: ReadonlySet<number>, bad: object) {
  const outcomes = await Promise.allSettled(
    numbers(count).map((n) => producer.enqueue({ n, secret: SECRET, ...(poison.has(n) ? bad : {}) })),
  );
  const ids: bigint[] = [];
  outcomes.forEach((outcome, n) => {
    if (outcome.status === 'fulfilled') {
      expect(poison.has(n)).toBe(false);
      expect(outcome.value.payload).toEqual({ n, secret: SECRET });
      ids.push(BigInt(outcome.value.id));
    } else {
      expect(poison.has(n)).toBe(true);
      expect(outcome.reason).toBeInstanceOf(PayloadInvalidError);
      expect(outcome.reason).toMatchObject({ code: 'PAYLOAD_INVALID', index: undefined });
      expectNoPayload(outcome.reason);
    }
  });
  expect(ids).toEqual([...ids].sort((a, b) => Number(a - b)));
  return numbers(count).filter((n) => !poison.has(n));
}

test.each([
  ['one', [250]],
  ['the first, the last, neighbours and more', [0, 1, 2, 77, 250, 251, 498, 499]],
])(
  'of 500 calls %s with a payload that jsonb refuses fail alone, before anything is sent',
  async (_, poison) => {
    const s = await scenario();
    const { sluice, count, forget } = await watched(s);
    const producer = await sluice.producer('work');
    forget();
    const good = await sendAll(producer, 500, new Set(poison), { text: '\u0000' });
    expect(count('enqueue')).toBe(1);
    expect(await order(s)).toEqual(good);
  },
);

const REFUSALS: [string, (s: Awaited<ReturnType<typeof scenario>>) => Promise<void>, string][] = [
  ['a CHECK constraint', (s) => constrain(s, "payload->>'bad' is null"), '23514'],
  [
    'a trigger that raises',
    (s) => onInsert(s, `if new.payload ? 'bad' then raise exception 'not that one'; end if;`),
    'P0001',
  ],
  [
    'a trigger that leaves rows out',
    (s) => onInsert(s, `if new.payload ? 'bad' then return null; end if;`),
    'SLR01',
  ],
  [
    'an expression that fails',
    (s) => onInsert(s, `if (new.payload->>'bad')::int = 0 then null; end if;`),
    '22P02',
  ],
];

test.each(REFUSALS)(
  'of 500 calls those that %s refuses fail alone, the others are in, in order',
  async (_, refuse, state) => {
    const s = await scenario();
    await refuse(s);
    const { sluice, count, forget } = await watched(s);
    const producer = await sluice.producer('work');
    forget();
    const one = await sendAll(producer, 500, new Set([250]), { bad: SECRET });
    expect(await order(s)).toEqual(one);
    // Halves: about twice the logarithm of 500.
    expect(count('enqueue')).toBeLessThanOrEqual(20);
    await s.sluice.admin.purgeQueue('work');
    const several = await sendAll(producer, 500, new Set([0, 1, 2, 77, 250, 251, 498, 499]), { bad: SECRET });
    expect(await order(s)).toEqual(several);
    const alone = await failureOf(producer.enqueue({ bad: SECRET }));
    expect(alone).toMatchObject({ code: 'PAYLOAD_INVALID', cause: { sqlState: state } });
    expectNoPayload(alone);
    // And the producer goes on.
    await producer.enqueue({ n: 500 });
  },
);

test('when all of many calls are refused each fails, and none is left waiting', async () => {
  const s = await scenario();
  await constrain(s, "payload->>'bad' is null");
  const producer = await s.producer();
  expect(await sendAll(producer, 100, new Set(numbers(100)), { bad: 1 })).toEqual([]);
  expect(await s.count()).toBe(0);
});

const REFUSED: [string, number[]][] = [
  ['the first', [0]],
  ['the last', [299]],
  ['one in the middle', [123]],
  ['several, of which the first is named', [88, 89, 200]],
];

test.each(REFUSED)(
  'a batch of which the server refuses %s is out whole, and its error says which',
  async (_, bad) => {
    const s = await scenario();
    await constrain(s, "payload->>'bad' is null");
    const { sluice, pool } = await watched(s, { max: 1 });
    const producer = await sluice.producer('work');
    const payloads = [...numbered(300)].map((item, n) => (bad.includes(n) ? { ...item, bad: SECRET } : item));
    const failure = await failureOf(producer.batchEnqueue(payloads));
    expect(failure).toBeInstanceOf(PayloadInvalidError);
    expect(failure).toMatchObject({ index: bad[0], cause: { sqlState: '23514', constraint: 'of_the_test' } });
    expect(failure.message).toContain(`at index ${bad[0]}`);
    expectNoPayload(failure);
    expect(await s.count()).toBe(0);
    await expectClean(pool);
    expect(await producer.batchEnqueue([...numbered(300)])).toHaveLength(300);
  },
);

/** The only client of the pool is in no transaction: each statement has a time of its own. */
async function expectClean(pool: pg.Pool): Promise<void> {
  expect(pool.waitingCount).toBe(0);
  const now = async () => (await pool.query<{ now: string }>('select now()::text')).rows[0]!.now;
  expect(await now()).not.toBe(await now());
}

test('a batch whose rows are refused for what comes before them names the second of a pair', async () => {
  const s = await scenario();
  await s.pool.query(`create unique index of_the_test on ${s.schema}.pgqrs_messages ((payload->>'k'))`);
  const { sluice, pool } = await watched(s, { max: 1 });
  const producer = await sluice.producer('work');
  for (const [first, second] of [
    [0, 1],
    [0, 99],
    [40, 41],
    [50, 73],
  ] as const) {
    const payloads = numbers(100).map((n) => ({ n, k: n === second ? `k${first}` : `k${n}` }));
    const failure = await failureOf(producer.batchEnqueue(payloads));
    expect(failure).toMatchObject({ code: 'PAYLOAD_INVALID', index: second, cause: { sqlState: '23505' } });
    expect(await s.count()).toBe(0);
    await expectClean(pool);
  }
  // Also where the first of the pair is in the table already.
  await producer.enqueue({ n: 0, k: 'k5' });
  const taken = await failureOf(producer.batchEnqueue(numbers(10).map((n) => ({ n, k: `k${n}` }))));
  expect(taken).toMatchObject({ code: 'PAYLOAD_INVALID', index: 5, cause: { sqlState: '23505' } });
  expect(await s.count()).toBe(1);
});

test('a batch of one row names index 0, as any other batch does', async () => {
  const s = await scenario();
  await constrain(s, "payload->>'bad' is null");
  const producer = await s.producer();
  expect(await failureOf(producer.batchEnqueue([{ bad: 1 }]))).toMatchObject({
    code: 'PAYLOAD_INVALID',
    index: 0,
  });
});

test('a row that is refused only at the commit, by a deferred constraint, is found all the same', async () => {
  const s = await scenario();
  await onInsert(
    s,
    `if new.payload ? 'bad' then raise exception 'not that one' using errcode = '23514'; end if;`,
    'constraint trigger of_the_test after insert',
  );
  const producer = await s.producer();
  const good = await sendAll(producer, 20, new Set([7]), { bad: 1 });
  expect(await order(s)).toEqual(good);
  const payloads = numbers(20).map((n) => (n === 13 ? { n, bad: 1 } : { n }));
  expect(await failureOf(producer.batchEnqueue(payloads))).toMatchObject({
    code: 'PAYLOAD_INVALID',
    index: 13,
  });
  expect(await order(s)).toEqual(good);
});

test('no row is blamed for what is no fault of the data', async () => {
  const s = await scenario();
  // Row 5 is refused; whoever looks for it meets a deadlock victim's error instead, at row 3.
  await onInsert(
    s,
    `if nth > 20 and new.payload->>'n' = '3' then raise exception 'later' using errcode = '40P01'; end if;
     if new.payload->>'n' = '5' then raise exception 'not that one'; end if;`,
  );
  const producer = await s.producer();
  await producer.batchEnqueue(numbers(15).map((n) => ({ n: n + 100 })));
  const failure = await failureOf(producer.batchEnqueue(numbers(10).map((n) => ({ n }))));
  expect(failure).toMatchObject({ code: 'PAYLOAD_INVALID', index: undefined, cause: { sqlState: 'P0001' } });
});

test('the refused row is found where prepared statements get lost in between, too', async () => {
  const s = await scenario();
  await constrain(s, "payload->>'bad' is null");
  const { sluice, pool, before } = await watched(s, { max: 1 });
  const producer = await sluice.producer('work');
  await producer.batchEnqueue([...numbered(10)]);
  before(/^savepoint/, (client) => client.query('deallocate all'));
  const payloads = numbers(40).map((n) => (n === 31 ? { n, bad: 1 } : { n }));
  expect(await failureOf(producer.batchEnqueue(payloads))).toMatchObject({
    code: 'PAYLOAD_INVALID',
    index: 31,
    cause: { sqlState: '23514' },
  });
  await expectClean(pool);
  await producer.enqueue({ n: 1 });
  expect(await s.count()).toBe(11);
});
