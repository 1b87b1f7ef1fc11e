import { expect, test } from 'vitest';
import type { Producer } from '../src/index.js';
import { within } from './support/eventually.js';
import { type Scenario, scenario } from './support/scenario.js';

type Calls = Record<string, { call: (producer: Producer) => unknown; code: string; message: string }>;

const cycle: Record<string, unknown> = {};
cycle['self'] = cycle;
/** What a user without a compiler may pass. */
const any = (value: unknown) => value as never;

const PAYLOADS: Calls = {
  'enqueue(undefined)': {
    call: (p) => p.enqueue(undefined),
    code: 'PAYLOAD_INVALID',
    message: 'payload cannot be stored: undefined, functions and symbols have no JSON form',
  },
  'enqueue(a function)': {
    call: (p) => p.enqueue(() => 1),
    code: 'PAYLOAD_INVALID',
    message: 'payload cannot be stored: undefined, functions and symbols have no JSON form',
  },
  'enqueue(1n)': {
    call: (p) => p.enqueue({ n: 1n }),
    code: 'PAYLOAD_INVALID',
    message:
      'payload cannot be stored: a bigint has no JSON form: give it as a string, as JSON.rawJSON(String(value)) where there is that, or give BigInt.prototype a toJSON()',
  },
  'enqueue(a cycle)': {
    call: (p) => p.enqueue(cycle),
    code: 'PAYLOAD_INVALID',
    message: 'payload cannot be stored: Converting circular structure to JSON',
  },
  'enqueue(NUL)': {
    call: (p) => p.enqueue('a\0b'),
    code: 'PAYLOAD_INVALID',
    message: 'payload cannot be stored: jsonb stores neither NUL characters (\\u0000) nor lone surrogates',
  },
  'enqueue(a forbidden key)': {
    call: (p) => p.enqueue({ a: [JSON.parse('{"__proto__": 1}')] }),
    code: 'PAYLOAD_INVALID',
    message: "payload cannot be stored: Forbidden key '__proto__' found in payload",
  },
  'enqueue(too long)': {
    call: (p) => p.enqueue('x'.repeat(1_048_575)),
    code: 'PAYLOAD_TOO_LARGE',
    message: 'payload is 1048577 bytes of JSON; the limit is 1048576 (maxPayloadBytes)',
  },
  'batchEnqueue(one bad)': {
    call: (p) => p.batchEnqueue([1, 'ok', 'a\0b', 2n]),
    code: 'PAYLOAD_INVALID',
    message:
      'payload at index 2 cannot be stored: jsonb stores neither NUL characters (\\u0000) nor lone surrogates',
  },
  'batchEnqueue(one too long)': {
    call: (p) => p.batchEnqueue([1, 'x'.repeat(2_000_000)]),
    code: 'PAYLOAD_TOO_LARGE',
    message: 'payload at index 1 is 2000002 bytes of JSON; the limit is 1048576 (maxPayloadBytes)',
  },
  'enqueueDelayed(a forbidden key)': {
    call: (p) => p.enqueueDelayed({ constructor: 1 }, 5),
    code: 'PAYLOAD_INVALID',
    message: "payload cannot be stored: Forbidden key 'constructor' found in payload",
  },
};

const delay = (value: unknown) =>
  `delaySeconds must be a whole number from 0 to 4294967295, got ${String(value)}`;

const OPTIONS: Calls = {
  'batchEnqueue(no array)': {
    call: (p) => p.batchEnqueue(any('text')),
    code: 'INVALID_OPTION',
    message: 'payloads must be an array (use ingest() for other iterables), got "text"',
  },
  'batchEnqueue(an iterator)': {
    call: (p) => p.batchEnqueue(any(new Set([1]))),
    code: 'INVALID_OPTION',
    message: 'payloads must be an array (use ingest() for other iterables), got an object',
  },
  'enqueueDelayed(-1)': { call: (p) => p.enqueueDelayed(1, -1), code: 'INVALID_OPTION', message: delay(-1) },
  'enqueueDelayed(1.5)': {
    call: (p) => p.enqueueDelayed(1, 1.5),
    code: 'INVALID_OPTION',
    message: delay(1.5),
  },
  'enqueueDelayed(NaN)': {
    call: (p) => p.enqueueDelayed(1, NaN),
    code: 'INVALID_OPTION',
    message: delay(NaN),
  },
  'enqueueDelayed(2^32)': {
    call: (p) => p.enqueueDelayed(1, 2 ** 32),
    code: 'INVALID_OPTION',
    message: delay(2 ** 32),
  },
  'enqueueDelayed(nothing)': {
    call: (p) => p.enqueueDelayed(1, any(undefined)),
    code: 'INVALID_OPTION',
    message: delay(undefined),
  },
  'enqueueDelayed(text)': {
    call: (p) => p.enqueueDelayed(1, any('5')),
    code: 'INVALID_OPTION',
    message: delay('"5"'),
  },
  'batchEnqueue(delay -1)': {
    call: (p) => p.batchEnqueue([1], { delaySeconds: -1 }),
    code: 'INVALID_OPTION',
    message: delay(-1),
  },
  'batchEnqueue([], delay -1)': {
    call: (p) => p.batchEnqueue([], { delaySeconds: -1 }),
    code: 'INVALID_OPTION',
    message: delay(-1),
  },
  'enqueue(client: no client)': {
    call: (p) => p.enqueue(1, { client: any({}) }),
    code: 'INVALID_OPTION',
    message: 'client must be a client of pg, in a transaction, got an object',
  },
  'enqueue(signal: no signal)': {
    call: (p) => p.enqueue(1, { signal: any('stop') }),
    code: 'INVALID_OPTION',
    message: 'signal must be an AbortSignal, got "stop"',
  },
  'extendVisibility(no id)': {
    call: (p) => p.extendVisibility(any(4.2), 30),
    code: 'INVALID_OPTION',
    message: 'messageId must be an id: a positive decimal string, bigint or safe integer, got 4.2',
  },
  'extendVisibility(-1)': {
    call: (p) => p.extendVisibility('42', -1),
    code: 'INVALID_OPTION',
    message: 'seconds must be a number from 0 to 2592000, got -1',
  },
  'extendVisibility(NaN)': {
    call: (p) => p.extendVisibility('42', NaN),
    code: 'INVALID_OPTION',
    message: 'seconds must be a number from 0 to 2592000, got NaN',
  },
  'cancel(no id)': {
    call: (p) => p.cancel('-1'),
    code: 'INVALID_OPTION',
    message: 'messageId must be an id: a positive decimal string, bigint or safe integer, got "-1"',
  },
  'cancel(beyond int8)': {
    call: (p) => p.cancel('9223372036854775808'),
    code: 'INVALID_OPTION',
    message:
      'messageId must be an id: a positive decimal string, bigint or safe integer, got "9223372036854775808"',
  },
  'reschedule(nothing)': {
    call: (p) => p.reschedule('42', any(undefined)),
    code: 'INVALID_OPTION',
    message: 'due must be { delaySeconds } or { at }, got undefined',
  },
  'reschedule(a number)': {
    call: (p) => p.reschedule('42', any(5)),
    code: 'INVALID_OPTION',
    message: 'due must be { delaySeconds } or { at }, got 5',
  },
  'reschedule(-1)': {
    call: (p) => p.reschedule('42', { delaySeconds: -1 }),
    code: 'INVALID_OPTION',
    message: delay(-1),
  },
  'reschedule(an invalid date)': {
    call: (p) => p.reschedule('42', { at: new Date('never') }),
    code: 'INVALID_OPTION',
    message: 'at must be a valid Date, got an invalid Date',
  },
  'reschedule(a date as text)': {
    call: (p) => p.reschedule('42', { at: any('2030-01-01') }),
    code: 'INVALID_OPTION',
    message: 'at must be a valid Date, got "2030-01-01"',
  },
  'isHealthy(-1)': {
    call: (p) => p.isHealthy({ seconds: -1 }),
    code: 'INVALID_OPTION',
    message: 'age.seconds must be a number of at least 0, got -1',
  },
};

test('each method refuses each kind of bad input with a message that helps, and nothing is stored', async () => {
  const s = await scenario();
  const producer = await s.producer();
  for (const [name, { call, code, message }] of Object.entries({ ...PAYLOADS, ...OPTIONS })) {
    const error = await failureOf(name, () => call(producer));
    expect.soft({ code: error.code, message: error.message }, name).toEqual({ code, message });
  }
  expect(await s.count()).toBe(0);
  expect((await producer.enqueue('still fine')).id).toMatch(/^\d+$/);
});

const CREATION: [options: object, message: string][] = [
  [{ port: 0 }, 'port must be a whole number from 1 to 65535, got 0'],
  [{ port: 3000.5 }, 'port must be a whole number from 1 to 65535, got 3000.5'],
  [
    { hostname: '' },
    'hostname must be a non-empty string of at most 255 bytes without NUL characters, got ""',
  ],
  [{ heartbeatIntervalSeconds: 0 }, 'heartbeatIntervalSeconds must be a number from 0.01 to 3600, got 0'],
  [{ staleAfterSeconds: 1 }, 'staleAfterSeconds must be a number from 6 to 3153600000, got 1'],
  [
    { staleAfterSeconds: 1e15 },
    'staleAfterSeconds must be a number from 6 to 3153600000, got 1000000000000000',
  ],
  [{ maxPayloadBytes: 0 }, 'maxPayloadBytes must be a whole number from 1 to 268435455, got 0'],
  [{ maxStringBytes: -1 }, 'maxStringBytes must be a whole number from 1 to 268435455, got -1'],
  [{ maxDepth: 1.5 }, 'maxDepth must be a whole number from 0 to 10000, got 1.5'],
  [{ forbiddenKeys: 'x' }, 'forbiddenKeys must be a list of strings, got "x"'],
  [{ requiredKeys: [1] }, 'requiredKeys must be a list of strings, got 1 at index 0'],
  [{ maxEnqueuePerSecond: 0 }, 'maxEnqueuePerSecond must be a number above 0, got 0'],
  [{ maxEnqueueBurst: 0 }, 'maxEnqueueBurst must be a whole number of at least 1, got 0'],
  [{ whenRateLimited: 'drop' }, 'whenRateLimited must be one of wait, reject, got "drop"'],
  [{ retries: -1 }, 'retries must be a whole number from 0 to 1000000, got -1'],
  [{ retryBaseMs: 0 }, 'retryBaseMs must be a whole number from 1 to 3600000, got 0'],
  [
    { schema: {} },
    'schema must be a Standard Schema, such as those of zod, valibot, arktype, got another object',
  ],
];

test('a producer with a bad option is refused before anything is registered', async () => {
  const s: Scenario = await scenario();
  for (const [options, message] of CREATION) {
    const error = await failureOf(JSON.stringify(options), () => s.producer(options));
    expect.soft({ code: error.code, message: error.message }).toEqual({ code: 'INVALID_OPTION', message });
  }
  const unknown = await failureOf('a queue that is not there', () => s.sluice.producer('wrok'));
  expect(unknown.message).toBe('queue "wrok" does not exist; create it with admin.createQueue()');
  const { rows } = await s.pool.query(`select count(*)::int as count from ${s.schema}.pgqrs_workers`);
  expect(rows).toEqual([{ count: 0 }]);
});

test('a producer that may not enqueue says so, whatever the method', async () => {
  const s = await scenario();
  const producer = await s.producer({ hostname: 'mailer', port: 3_000 });
  const methods: Record<string, () => unknown> = {
    enqueue: () => producer.enqueue(1),
    batchEnqueue: () => producer.batchEnqueue([1]),
    'batchEnqueue([])': () => producer.batchEnqueue([]),
    enqueueDelayed: () => producer.enqueueDelayed(1, 1),
    writable: () => producer.writable(),
    ingest: () => producer.ingest([1]),
  };
  const refusals = async () => {
    const found = new Set<string>();
    for (const [name, call] of Object.entries(methods)) found.add((await failureOf(name, call)).message);
    return [...found];
  };
  await producer.suspend();
  expect(await refusals()).toEqual([
    'worker mailer:3000 is suspended and takes on nothing new; resume() it first',
  ]);
  await producer.resume();
  await producer.enqueue(1);
  await producer.suspend();
  await producer.shutdown();
  expect(await refusals()).toEqual(['worker mailer:3000 is closed']);
  expect(await s.count()).toBe(1);
});

async function failureOf(name: string, call: () => unknown): Promise<Error & { code?: string }> {
  const attempt = async () => await call();
  const outcome = await within(
    10_000,
    name,
    attempt().then(
      () => undefined,
      (error: unknown) => error,
    ),
  );
  if (!(outcome instanceof Error)) throw new Error(`${name} did not fail`);
  return outcome;
}
