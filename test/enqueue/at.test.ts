import { expect, test } from 'vitest';
import { type EnqueueOptions, InvalidOptionError } from '../../src/index.js';
import { DELAY, elapse, of, stored, VT_MICROS } from '../contract/producer-api.js';
import { scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';

const DAY_MS = 86_400_000;
const micros = (time: Date) => String(BigInt(time.getTime()) * 1_000n);

test.each([
  ['a day', new Date(Math.floor(Date.now() / 1_000) * 1_000 + DAY_MS + 123)],
  [
    'five hundred years, which is further than a float8 has microseconds',
    new Date('2527-03-01T10:20:30.123Z'),
  ],
  ['further than a year of four digits', new Date('+012026-03-01T10:20:30.321Z')],
  ['the last Date that there is', new Date(8.64e15)],
])('a message is due at its time: in %s', async (_, at) => {
  const s = await scenario();
  const producer = await s.producer();
  const single = await producer.enqueue({ n: 1 }, { at });
  const batch = await producer.batchEnqueue([2, 3], { at });
  const keyed = await producer.enqueue({ n: 4 }, { at, dedupeKey: 'four' });
  const moved = await producer.enqueue({ n: 5 });
  expect(await producer.reschedule(moved.id, { at })).toBe(true);
  for (const message of [single, ...batch, keyed!]) {
    expect(message.vt).toEqual(at);
    expect(await s.sluice.admin.getMessage(message.id)).toEqual(message);
  }
  for (const { id } of await stored(s)) expect(await of(s, id, VT_MICROS)).toBe(micros(at));
  expect(await (await s.consumer()).dequeueMany(10)).toEqual([]);
});

test.each([
  ['an hour ago', () => new Date(Date.now() - 3_600_000)],
  ['1970', () => new Date(0)],
  ['4711 BC', () => new Date(Date.UTC(-4711, 0))],
])('a time that has passed means now, and the message lines up: %s', async (_, at) => {
  const s = await scenario();
  const producer = await s.producer();
  const first = await producer.enqueue(1);
  const second = await producer.enqueue(2, { at: at() });
  const [third] = await producer.batchEnqueue([3], { at: at(), dedupeKey: String });
  for (const message of [second, third!]) {
    expect(message.vt).toEqual(message.enqueuedAt);
    expect(await of(s, message.id, DELAY)).toBe(0);
  }
  expect(await stored(s)).toEqual([first, second, third]);
  expect((await (await s.consumer()).dequeueMany(3)).map(({ payload }) => payload)).toEqual([1, 2, 3]);
});

test('it is the server’s clock that says what has passed, not this process’', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const { rows } = await s.pool.query<{ now: Date }>('select now()');
  const { now } = Date;
  Date.now = () => now() + 10 * DAY_MS;
  try {
    const at = new Date(rows[0]!.now.getTime() + DAY_MS);
    expect((await producer.enqueue(1, { at })).vt).toEqual(at);
  } finally {
    Date.now = now;
  }
});

test('calls with and without a time share a statement, and each message has its own', async () => {
  const s = await scenario();
  const { sluice, count } = await spied(s);
  const producer = await sluice.producer('work');
  const at = new Date(Date.now() + DAY_MS);
  const later = new Date(at.getTime() + 1);
  const calls: EnqueueOptions[] = [{}, { at }, { delaySeconds: 60 }, { at: new Date(0) }, { at: later }, {}];
  const all = await Promise.all([
    ...calls.map((options, n) => producer.enqueue(n, options)),
    ...calls.map((options, n) => producer.enqueue(n, { ...options, dedupeKey: `key ${n}` })),
  ]);
  expect(await stored(s)).toEqual(all);
  expect(count('enqueue') + count('enqueue_once')).toBeLessThanOrEqual(2);
  const waits = [0, at, 60, 0, later, 0];
  for (const [place, message] of all.entries()) {
    const wait = waits[place % calls.length]!;
    if (wait instanceof Date) expect(message!.vt).toEqual(wait);
    else expect(await of(s, message!.id, DELAY)).toBe(wait);
  }
  await elapse(s, 60);
  expect(await (await s.consumer()).dequeueMany(100)).toHaveLength(8);
});

test('in a transaction of the caller’s, and while the session’s settings are strange', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const at = new Date('2031-02-03T04:05:06.789Z');
  const client = await s.pool.connect();
  try {
    await client.query(`begin; set local datestyle = 'SQL, DMY'; set local timezone = 'Asia/Kathmandu'`);
    const message = await producer.enqueue(1, { at, client });
    await client.query('commit');
    expect(message.vt).toEqual(at);
    expect(await of(s, message.id, VT_MICROS)).toBe(micros(at));
  } finally {
    client.release();
  }
});

test.each<[string, object, { field: string; rule: string }]>([
  [
    'a time and a delay',
    { at: new Date(), delaySeconds: 0 },
    { field: 'at', rule: 'given without delaySeconds' },
  ],
  ['an invalid Date', { at: new Date(NaN) }, { field: 'at', rule: 'a valid Date' }],
  ['milliseconds', { at: Date.now() }, { field: 'at', rule: 'a valid Date' }],
  ['a text', { at: '2030-01-01' }, { field: 'at', rule: 'a valid Date' }],
  ['null', { at: null }, { field: 'at', rule: 'a valid Date' }],
  ['a function of the payload', { at: () => new Date() }, { field: 'at', rule: 'a valid Date' }],
  ['a Date before PostgreSQL', { at: new Date(-8.64e15) }, { field: 'at', rule: 'a Date after 4713 BC' }],
])('%s is refused, and no row is written', async (_, options, refused) => {
  const s = await scenario();
  const producer = await s.producer();
  for (const call of [
    () => producer.enqueue(1, options),
    () => producer.batchEnqueue([1], options),
    () => producer.enqueue(1, { ...options, dedupeKey: 'one' }),
  ]) {
    const error: unknown = await call().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(InvalidOptionError);
    expect(error).toMatchObject({ code: 'INVALID_OPTION', ...refused });
  }
  expect(await s.count()).toBe(0);
});

test('the time is taken when the call is made, and undefined is none', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const at = new Date('2031-01-01');
  const enqueuing = producer.enqueue(1, { at });
  at.setFullYear(2000);
  expect((await enqueuing).vt).toEqual(new Date('2031-01-01'));
  const now = await producer.enqueue(2, { at: undefined as never, delaySeconds: 5 });
  expect(await of(s, now.id, DELAY)).toBe(5);
});

test('enqueueDelayed and streams have delays, and no time beside them', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const at = new Date();
  await expect(producer.enqueueDelayed(1, 1, { at } as never)).rejects.toThrow(InvalidOptionError);
  // @ts-expect-error an option that streams don't have
  await expect(producer.ingest([1], { at })).rejects.toThrow(InvalidOptionError);
});
