import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import { InvalidOptionError, PayloadInvalidError, PayloadTooLargeError } from '../src/errors/index.js';
import { checkPayloadRules, PayloadCheck, type PayloadRules } from '../src/validation.js';

function toJson(payload: unknown, rules: Partial<PayloadRules> = {}): string {
  return new PayloadCheck(rules).toJson(payload);
}

function refusal(payload: unknown, rules: Partial<PayloadRules> = {}): string | undefined {
  try {
    toJson(payload, rules);
    return undefined;
  } catch (error) {
    if (!(error instanceof PayloadInvalidError)) throw error;
    return error.reason;
  }
}

/** The text of some JSON as an object: in a literal `__proto__` would set the prototype. */
const parsed = (json: string): unknown => JSON.parse(json);

function nested(depth: number, inside: unknown = 1): unknown {
  let value = inside;
  for (let i = 0; i < depth; i++) value = i % 2 ? [value] : { a: value };
  return value;
}

const long = 'k'.repeat(100);

const TABLE: readonly [what: string, payload: unknown, rules: Partial<PayloadRules>, reason?: string][] = [
  ['an object', { a: 1, b: [null, true] }, {}],
  ['a string', 'text', {}],
  ['null', null, {}],

  ['depth at the limit', nested(5), { maxDepth: 5 }],
  ['depth over it', nested(6), { maxDepth: 5 }, 'Object depth 6 exceeds limit 5'],
  ['an empty container at the limit', nested(5, []), { maxDepth: 5 }],
  ['an empty container over it', nested(6, {}), { maxDepth: 5 }, 'Object depth 6 exceeds limit 5'],
  ['a scalar, which counts', [1], { maxDepth: 0 }, 'Object depth 1 exceeds limit 0'],
  ['a scalar at depth 0', 1, { maxDepth: 0 }],
  ['an empty object at depth 0', {}, { maxDepth: 0 }],
  ['many brackets that are not deep', [[], [], [], {}, '[[[['], { maxDepth: 1 }],
  ['brackets in strings', '[[[[{{{{', { maxDepth: 0 }],
  ['as many arrays in one another as pgqrs reads', nested(126, []), {}],
  ['one more', nested(127, []), {}, 'more than 127 arrays and objects in one another, which clients of pgqrs cannot read (readableByPgqrs: false allows it)'], // prettier-ignore
  [
    'one more, with something in it',
    nested(128),
    { readableByPgqrs: false },
    'Object depth 128 exceeds limit 127',
  ],
  ['one more, for others', nested(127, []), { readableByPgqrs: false }],
  ['many arrays beside one another', Array(1_000).fill(['\\"[[', { a: [] }]), {}],
  ['the largest number that pgqrs reads', { a: [1.7976931348623155e308, -1.7976931348623155e308] }, {}],
  ['the largest number', { a: [Number.MAX_VALUE] }, {}, 'a number of 1.7976931348623157e308 or more, which clients of pgqrs cannot read (readableByPgqrs: false allows it)'], // prettier-ignore
  ['the largest number, negative', -Number.MAX_VALUE, {}, 'a number of 1.7976931348623157e308 or more, which clients of pgqrs cannot read (readableByPgqrs: false allows it)'], // prettier-ignore
  ['the largest number in a text', { a: '1.7976931348623157e+308' }, {}],
  ['the largest number, for others', Number.MAX_VALUE, { readableByPgqrs: false }],
  [
    'a depth near the stack of JSON.stringify',
    nested(3_000),
    { maxDepth: 3_000, maxStringBytes: 1, readableByPgqrs: false },
  ],

  ['__proto__', parsed('{"__proto__": 1}'), {}, "Forbidden key '__proto__' found in payload"],
  ['constructor', { constructor: 1 }, {}, "Forbidden key 'constructor' found in payload"],
  ['the prototype set by a literal, which JSON drops', { __proto__: { a: 1 } }, {}],
  ['a forbidden key in an array in an object', parsed('{"a":[1,{"__proto__":{}}]}'), {}, "Forbidden key '__proto__' found in payload"], // prettier-ignore
  ['one that a toJSON() makes', { toJSON: () => ({ constructor: 1 }) }, {}, "Forbidden key 'constructor' found in payload"], // prettier-ignore
  ['one that JSON leaves out', { constructor: undefined }, {}],
  ['one as a value', { a: '__proto__', b: ['constructor'] }, {}],
  ['one as text with its colon', { a: '"__proto__":', b: ':"constructor":1' }, {}],
  ['a key that ends like one', { my__proto__: 1, 'x"__proto__': 1, '\\"constructor': 1 }, {}],
  ['a key that begins like one', { 'constructor"': 1, __proto__x: 1, __proto__1: 1 }, {}],
  ['a key of another case', { Constructor: 1 }, {}],
  ['nothing forbidden', parsed('{"__proto__":1,"constructor":2}'), { forbiddenKeys: [] }],
  ['a forbidden key with a quote', { 'a"b': 1 }, { forbiddenKeys: ['a"b'] }, `Forbidden key 'a"b' found in payload`], // prettier-ignore
  ['a forbidden key with a backslash', { 'a\\': 1 }, { forbiddenKeys: ['a\\'] }, `Forbidden key 'a\\' found in payload`], // prettier-ignore
  ['a forbidden key in Unicode', { 'ключ😀': 1 }, { forbiddenKeys: ['ключ😀'] }, `Forbidden key 'ключ😀' found in payload`], // prettier-ignore
  ['the empty key', { '': 1 }, { forbiddenKeys: [''] }, "Forbidden key '' found in payload"],
  ['the empty key, absent', { a: '' }, { forbiddenKeys: [''] }],
  ['the first forbidden key by configuration', { a: 1, b: 2 }, { forbiddenKeys: ['b', 'a'] }, "Forbidden key 'b' found in payload"], // prettier-ignore
  ['a long forbidden key, cut', { [long]: 1 }, { forbiddenKeys: [long] }, `Forbidden key '${long.slice(0, 77)}…' found in payload`], // prettier-ignore
  ['a forbidden key with line breaks', { 'a\nb\u2028': 1 }, { forbiddenKeys: ['a\nb\u2028'] }, "Forbidden key 'a\\u000ab\\u2028' found in payload"], // prettier-ignore

  ['a required key', { a: null }, { requiredKeys: ['a'] }],
  ['one that is missing', { b: 1 }, { requiredKeys: ['a'] }, "Required key 'a' missing from payload"],
  ['one deeper down only', { b: { a: 1 } }, { requiredKeys: ['a'] }, "Required key 'a' missing from payload"],
  ['one that objects inherit', {}, { requiredKeys: ['toString'] }, "Required key 'toString' missing from payload"], // prettier-ignore
  ['one that JSON leaves out', { a: undefined }, { requiredKeys: ['a'] }, "Required key 'a' missing from payload"], // prettier-ignore
  ['the first missing one by configuration', {}, { requiredKeys: ['b', 'a'] }, "Required key 'b' missing from payload"], // prettier-ignore
  ['an array instead of an object', [{ a: 1 }], { requiredKeys: ['a'] }, "Required key 'a' missing from payload"], // prettier-ignore
  ['a string instead of an object', '{"a":1}', { requiredKeys: ['a'] }, "Required key 'a' missing from payload"], // prettier-ignore
  ['null instead of an object', null, { requiredKeys: ['a'] }, "Required key 'a' missing from payload"],
  ['a Map, which has no keys in JSON', new Map([['a', 1]]), { requiredKeys: ['a'] }, "Required key 'a' missing from payload"], // prettier-ignore

  ['a string at the limit', 'x'.repeat(10), { maxStringBytes: 10 }],
  ['a string over it', 'x'.repeat(11), { maxStringBytes: 10 }, 'String length 11 exceeds limit 10'],
  ['an umlaut, two bytes', 'ü'.repeat(5), { maxStringBytes: 10 }],
  ['umlauts over it', 'ü'.repeat(6), { maxStringBytes: 10 }, 'String length 12 exceeds limit 10'],
  ['an emoji, four bytes', ['😀😀'], { maxStringBytes: 8 }],
  ['emoji over it', ['😀😀'], { maxStringBytes: 7 }, 'String length 8 exceeds limit 7'],
  ['characters that JSON escapes, counted as themselves', '"\n\\\u0001', { maxStringBytes: 4 }],
  ['a Date, a string in JSON', new Date(0), { maxStringBytes: 23 }, 'String length 24 exceeds limit 23'],
  ['a key at the limit', { '😀': 1 }, { maxStringBytes: 4 }],
  ['a key over it', { '😀a': 1 }, { maxStringBytes: 4 }, "Key '😀a' length 5 exceeds limit 4"],
  ['a long key, cut', { [long]: 1 }, { maxStringBytes: 4 }, `Key '${long.slice(0, 77)}…' length 100 exceeds limit 4`], // prettier-ignore
  ['a long number, which is none', 123456789, { maxStringBytes: 4 }],

  ['depth before forbidden keys', [{ constructor: 1 }], { maxDepth: 0 }, 'Object depth 1 exceeds limit 0'],
  ['forbidden before required keys', { constructor: 1 }, { requiredKeys: ['a'] }, "Forbidden key 'constructor' found in payload"], // prettier-ignore
  ['required keys before lengths', { toolong: 1 }, { requiredKeys: ['a'], maxStringBytes: 1 }, "Required key 'a' missing from payload"], // prettier-ignore
  ['a forbidden key before what a key before it holds', { a: 'long', constructor: 1 }, { maxStringBytes: 1 }, "Forbidden key 'constructor' found in payload"], // prettier-ignore
  ['keys in sorted order', { b: 'toolong', a: 'long' }, { maxStringBytes: 1 }, 'String length 4 exceeds limit 1'], // prettier-ignore
  ['what a key holds before the next key', { bb: 1, a: 'long' }, { maxStringBytes: 1 }, 'String length 4 exceeds limit 1'], // prettier-ignore
  ['a key before what it holds', { bb: 'long' }, { maxStringBytes: 1 }, "Key 'bb' length 2 exceeds limit 1"],
  ['a key before the depth of what it holds', { bb: 1 }, { maxStringBytes: 1, maxDepth: 0 }, "Key 'bb' length 2 exceeds limit 1"], // prettier-ignore
  ['numbers sorted as text', { 9: 'four', 10: 'toolong' }, { maxStringBytes: 2 }, 'String length 7 exceeds limit 2'], // prettier-ignore
  ['keys sorted by their bytes', { '😀': 'toolong', '\uffff': 'long.' }, { maxStringBytes: 4 }, 'String length 5 exceeds limit 4'], // prettier-ignore
  ['arrays from the front', ['long', 'toolong'], { maxStringBytes: 1 }, 'String length 4 exceeds limit 1'],
];

describe('rules', () => {
  test.each(TABLE)('%s', (_what, payload, rules, reason) => {
    expect(refusal(payload, rules)).toBe(reason);
    if (reason === undefined) expect(toJson(payload, rules)).toBe(JSON.stringify(payload));
  });

  test('are judged as pgqrs does: 10,000 random payloads', () => {
    const random = seeded(7);
    const pick = <T>(from: readonly T[]) => from[Math.floor(random() * from.length)] as T;
    const texts = ['__proto__', 'constructor', 'x"__proto__', '\\"constructor', '"__proto__":1', 'a', 'bb'];
    const strings = [...texts, '', 'é', '😀', '\uffff', '[[{{', 'c'.repeat(12), '😀'.repeat(4), '\\', '"'];
    const value = (levels: number): unknown => {
      const size = Math.floor(random() * 4);
      if (levels === 0 || random() < 0.3) return pick([null, true, 12.5, ...strings]);
      if (random() < 0.4) return Array.from({ length: size }, () => value(levels - 1));
      return Object.fromEntries(Array.from({ length: size }, () => [pick(strings), value(levels - 1)]));
    };
    const counts = new Map<string, number>();
    for (let n = 0; n < 10_000; n++) {
      const rules = checkPayloadRules({
        maxStringBytes: pick([undefined, 1, 4, 9, 13, 100]),
        maxDepth: pick([undefined, 0, 1, 2, 3, 4]),
        forbiddenKeys: pick([['__proto__', 'constructor'], [], ['bb', '', '\\'], ['😀', 'x"__proto__']]),
        requiredKeys: pick([[], [], ['a'], ['bb', '__proto__']]),
      });
      const payload = value(Math.floor(random() * 6));
      const expected = byPgqrs(payload, rules);
      // An expect() for each would take longer than all the rest.
      const reason = refusal(payload, rules);
      if (reason !== expected)
        expect.fail(`${JSON.stringify({ payload, rules })}: ${reason} for ${expected}`);
      const kind = expected?.split(' ')[0] ?? 'fine';
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
    for (const kind of ['fine', 'Object', 'Forbidden', 'Required', 'Key', 'String'])
      expect(counts.get(kind), kind).toBeGreaterThan(150);
  });
});

/** The walk of pgqrs' validator, word for word, but for required keys of a payload that is no object. */
function byPgqrs(value: unknown, rules: PayloadRules, depth = 0): string | undefined {
  const { maxDepth, maxStringBytes = Infinity, forbiddenKeys, requiredKeys } = rules;
  if (depth > maxDepth) return `Object depth ${depth} exceeds limit ${maxDepth}`;
  const object =
    typeof value === 'object' && value && !Array.isArray(value) ? new Map(Object.entries(value)) : undefined;
  for (const key of object ? forbiddenKeys : [])
    if (object?.has(key)) return `Forbidden key '${key}' found in payload`;
  for (const key of depth === 0 ? requiredKeys : [])
    if (!object?.has(key)) return `Required key '${key}' missing from payload`;
  const bytes = (text: string) => Buffer.byteLength(text);
  if (typeof value === 'string' && bytes(value) > maxStringBytes)
    return `String length ${bytes(value)} exceeds limit ${maxStringBytes}`;
  for (const item of Array.isArray(value) ? (value as unknown[]) : []) {
    const reason = byPgqrs(item, rules, depth + 1);
    if (reason) return reason;
  }
  const sorted = [...(object ?? [])].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  for (const [key, item] of sorted) {
    if (bytes(key) > maxStringBytes)
      return `Key '${key}' length ${bytes(key)} exceeds limit ${maxStringBytes}`;
    const reason = byPgqrs(item, rules, depth + 1);
    if (reason) return reason;
  }
  return undefined;
}

describe('what has no JSON form', () => {
  const cycle: Record<string, unknown> = { secretKey: 'secret' };
  cycle['self'] = cycle;
  test.each<[string, unknown, string]>([
    ['undefined', undefined, 'undefined, functions and symbols have no JSON form'],
    ['a function', () => 'secret', 'undefined, functions and symbols have no JSON form'],
    ['a cycle', cycle, 'Converting circular structure to JSON'],
    [
      'a BigInt',
      { secret: 1n },
      'a bigint has no JSON form: give it as a string, as JSON.rawJSON(String(value)) where there is that, or give BigInt.prototype a toJSON()',
    ],
    ['NUL', 'secret\0', 'jsonb stores neither NUL characters (\\u0000) nor lone surrogates'],
    ['half an emoji', 'secret\ud83d', 'jsonb stores neither NUL characters (\\u0000) nor lone surrogates'],
  ])('%s', (_what, payload, reason) => {
    const check = new PayloadCheck();
    const error: unknown = (() => {
      try {
        return check.toJson(payload, 7);
      } catch (error) {
        return error;
      }
    })();
    expect(error).toMatchObject({ code: 'PAYLOAD_INVALID', index: 7, reason });
    expect((error as Error).message).toBe(`payload at index 7 cannot be stored: ${reason}`);
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain('secret');
  });

  test('is deeper than the stack', () => {
    // Newer versions of V8 write it all the same.
    expect([undefined, 'Maximum call stack size exceeded']).toContain(refusal(nested(100_000)));
    expect(['Object depth 6 exceeds limit 5', 'Maximum call stack size exceeded']).toContain(
      refusal(nested(100_000), { maxDepth: 5 }),
    );
  });

  test.each([new Error('boom'), 'boom', undefined])('throws %s in its toJSON()', (thrown: unknown) => {
    const payload = {
      toJSON: () => {
        // Anything can be thrown, and by any library.
        throw thrown as Error;
      },
    };
    expect(() => toJson(payload)).toThrow(
      expect.objectContaining({
        message: 'payload cannot be stored: its toJSON() or one of its getters threw',
        cause: thrown,
      }),
    );
  });
});

/** What JSON writes as it stands: from Node 22 on. */
const rawJSON = (JSON as { rawJSON?: (text: string) => unknown }).rawJSON;
if (!rawJSON) console.warn(`tests of JSON.rawJSON skipped: Node ${process.version} has none`);

test.skipIf(!rawJSON)('numbers and texts of JSON.rawJSON() come through as they are written', () => {
  const raw = rawJSON as (text: string) => unknown;
  const payload = {
    id: raw('9007199254740993'),
    list: [raw('1.10'), raw('"\\ud83d\\ude00"'), raw('"\\u0041"')],
  };
  expect(toJson(payload, { maxStringBytes: 4, requiredKeys: ['id'] })).toBe(
    '{"id":9007199254740993,"list":[1.10,"\\ud83d\\ude00","\\u0041"]}',
  );
  expect(refusal(raw('"\\ud83d"'), {})).toMatch(/lone surrogates/);
  expect(refusal(raw('"\\u0000"'), {})).toMatch(/NUL/);
});

test('messages name keys, never values', () => {
  const check = new PayloadCheck({ maxStringBytes: 4, maxDepth: 2 });
  for (const payload of [{ a: 'secret' }, ['secret'], { constructor: 'secret' }, { 'a key': 'secret' }]) {
    const error: unknown = (() => {
      try {
        return check.toJson(payload);
      } catch (error) {
        return error;
      }
    })();
    expect(error).toBeInstanceOf(PayloadInvalidError);
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain('secret');
  }
});

test('the size is checked on its own', () => {
  const check = new PayloadCheck({ maxPayloadBytes: 10 });
  check.toJson('x'.repeat(100));
  check.checkSize(10);
  expect(() => check.checkSize(11)).toThrow(PayloadTooLargeError);
  expect(() => check.checkSize(11, 3)).toThrow(
    'payload at index 3 is 11 bytes of JSON; the limit is 10 (maxPayloadBytes)',
  );
});

describe('options', () => {
  test('have defaults', () => {
    expect(checkPayloadRules({})).toEqual({
      maxPayloadBytes: 1_048_576,
      maxStringBytes: undefined,
      maxDepth: 127,
      readableByPgqrs: true,
      forbiddenKeys: ['__proto__', 'constructor'],
      requiredKeys: [],
    });
  });

  test.each<[Partial<PayloadRules>, string]>([
    [{ maxPayloadBytes: 0 }, 'maxPayloadBytes must be a whole number from 1 to 268435455, got 0'],
    [{ maxPayloadBytes: 268_435_456 }, 'maxPayloadBytes must be a whole number from 1 to 268435455, got 26'],
    [{ maxStringBytes: 0 }, 'maxStringBytes must be a whole number from 1 to 268435455, got 0'],
    [{ maxStringBytes: '5' as never }, 'maxStringBytes must be a whole number from 1 to 268435455, got "5"'],
    [{ maxDepth: -1 }, 'maxDepth must be a whole number from 0 to 10000, got -1'],
    [{ maxDepth: Infinity }, 'maxDepth must be a whole number from 0 to 10000, got Infinity'],
    [{ forbiddenKeys: 'a' as never }, 'forbiddenKeys must be a list of strings, got "a"'],
    [{ requiredKeys: ['a', 1 as never] }, 'requiredKeys must be a list of strings, got 1 at index 1'],
  ])('%o are refused', (options, message) => {
    expect(() => checkPayloadRules(options)).toThrow(InvalidOptionError);
    expect(() => checkPayloadRules(options)).toThrow(message);
  });

  test('are copied', () => {
    const forbiddenKeys = ['a'];
    const check = new PayloadCheck({ forbiddenKeys });
    forbiddenKeys[0] = 'b';
    expect(check.toJson({ b: 1 })).toBe('{"b":1}');
    expect(() => check.toJson({ a: 1 })).toThrow("Forbidden key 'a'");
  });
});

/** Numbers from 0 to 1, the same ones for the same seed. */
function seeded(seed: number): () => number {
  return () => (seed = (seed * 16_807) % 2_147_483_647) / 2_147_483_647;
}
