import { setTimeout as delay } from 'node:timers/promises';
import { inspect } from 'node:util';
import type { StandardSchemaV1 } from '@standard-schema/spec';
import { type } from 'arktype';
import * as v from 'valibot';
import { describe, expect, expectTypeOf, test } from 'vitest';
import { z } from 'zod';
import { InvalidOptionError, PayloadInvalidError, ValidatorError } from '../src/errors/index.js';
import { type SchemaInput, type SchemaOutput, schemaValidator } from '../src/standard-schema.js';

interface Mail {
  to: string;
  items: { price: number }[];
  'odd key': boolean;
}

/** The same schema three times. */
const MAIL = {
  zod: z.object({
    to: z.string(),
    items: z.array(z.object({ price: z.number() })),
    'odd key': z.boolean(),
  }),
  valibot: v.object({
    to: v.string(),
    items: v.array(v.object({ price: v.number() })),
    'odd key': v.boolean(),
  }),
  arktype: type({ to: 'string', items: type({ price: 'number' }).array(), 'odd key': 'boolean' }),
};

/** Takes a number in text, gives a number. */
const NUMBER = {
  zod: z.object({ n: z.string().transform(Number) }),
  valibot: v.object({ n: v.pipe(v.string(), v.transform(Number)) }),
  arktype: type({ n: type('string').pipe(Number) }),
};

/** The error that the validation throws or rejects with. */
async function refusal(
  validate: (payload: unknown, index?: number) => unknown,
  payload: unknown,
  index?: number,
): Promise<PayloadInvalidError> {
  try {
    await validate(payload, index);
  } catch (error) {
    expect(error).toBeInstanceOf(PayloadInvalidError);
    return error as PayloadInvalidError;
  }
  throw new Error('it was not refused');
}

/** A schema by hand. */
function schemaOf(validate: (value: unknown) => unknown): StandardSchemaV1<unknown, number> {
  const props = { version: 1 as const, vendor: 'test', validate: validate as never };
  return { '~standard': props };
}

describe.each(Object.keys(MAIL) as (keyof typeof MAIL)[])('%s', (library) => {
  test('gives what it lets pass, at once', () => {
    const mail: Mail = { to: 'a@b.c', items: [{ price: 1 }], 'odd key': true };
    expect(schemaValidator<StandardSchemaV1>(MAIL[library])(mail)).toEqual(mail);
  });

  test('gives the output of its transforms', () => {
    expect(schemaValidator<StandardSchemaV1>(NUMBER[library])({ n: '7' })).toEqual({ n: 7 });
  });

  test('says where it refuses, not what', async () => {
    const validate = schemaValidator<StandardSchemaV1>(MAIL[library]);
    const payload = {
      to: { secret: 'secret' },
      items: [{ price: 1 }, { price: 'secret' }],
      'odd key': 'secret',
    };
    const error = await refusal(validate, payload, 3);
    expect(error).toMatchObject({ code: 'PAYLOAD_INVALID', index: 3 });
    expect(error.reason).toMatch(/^the schema refuses it at .* \(3 issues; see error\.issues\)$/);
    const paths = ['["odd key"]', 'items[1].price', 'to'];
    expect(error.issues.map(({ path }) => path).sort()).toEqual(paths);
    for (const path of paths) expect(error.message).toContain(path);
    for (const { message } of error.issues) expect(message).toMatch(/./);
    expect(`${error.message} ${inspect(error, { depth: 9, showHidden: true })}`).not.toContain('secret');
  });

  test('may refuse the payload as a whole', async () => {
    const error = await refusal(schemaValidator<StandardSchemaV1>(MAIL[library]), 'secret');
    expect(error.message).toBe('payload cannot be stored: the schema refuses it (1 issue; see error.issues)');
    expect(error.issues).toEqual([{ message: expect.any(String) as string, path: '' }]);
  });
});

test('types are those of the schema', () => {
  expectTypeOf<SchemaInput<typeof MAIL.zod>>().toEqualTypeOf<Mail>();
  expectTypeOf<SchemaOutput<typeof MAIL.valibot>>().toEqualTypeOf<Mail>();
  expectTypeOf<SchemaOutput<typeof MAIL.arktype>>().toEqualTypeOf<Mail>();
  expectTypeOf<SchemaInput<typeof NUMBER.zod>>().toEqualTypeOf<{ n: string }>();
  const ofZod = schemaValidator(NUMBER.zod);
  expectTypeOf(ofZod).toEqualTypeOf<
    (payload: unknown, index?: number) => { n: number } | Promise<{ n: number }>
  >();
  expectTypeOf(schemaValidator(NUMBER.valibot)).toEqualTypeOf(ofZod);
  expectTypeOf(schemaValidator(NUMBER.arktype)).toEqualTypeOf(ofZod);
});

describe('a schema that validates asynchronously', () => {
  const known = async (to: string) => {
    await delay(1);
    return to !== 'secret';
  };
  test.each<[string, StandardSchemaV1]>([
    ['zod', z.object({ to: z.string().refine(known) })],
    ['valibot', v.objectAsync({ to: v.pipeAsync(v.string(), v.checkAsync(known)) })],
  ])('%s', async (_library, schema) => {
    const validate = schemaValidator(schema);
    const passing = validate({ to: 'me' });
    expect(passing).toBeInstanceOf(Promise);
    expect(await passing).toEqual({ to: 'me' });
    const error = await refusal(validate, { to: 'secret' }, 5);
    expect(error).toMatchObject({ index: 5, issues: [{ path: 'to' }] });
    expect(error.reason).toBe('the schema refuses it at to (1 issue; see error.issues)');
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain('secret');
  });
});

describe('paths', () => {
  const pathOf = async (path: StandardSchemaV1.Issue['path']) =>
    (await refusal(schemaValidator(schemaOf(() => ({ issues: [{ message: 'no', path }] }))), 1)).issues[0]!
      .path;

  test.each<[NonNullable<StandardSchemaV1.Issue['path']>, string]>([
    [[], ''],
    [['a'], 'a'],
    [['a', 'b', 0, 'c'], 'a.b[0].c'],
    [[0, 1], '[0][1]'],
    [[{ key: 'items' }, { key: 2 }, { key: 'price' }], 'items[2].price'],
    [['headers', 'content-type'], 'headers["content-type"]'],
    [['0'], '["0"]'],
    [['a\nb', ''], '["a\\nb"][""]'],
    [['größe', '$x', '_y'], 'größe.$x._y'],
    [[Symbol('s')], '[Symbol(s)]'],
  ])('%o', async (path, written) => {
    expect(await pathOf(path)).toBe(written);
  });

  test('may be absent', async () => {
    expect(await pathOf(undefined)).toBe('');
  });

  test('are named once, five at most, and cut', async () => {
    const paths = [['long'.repeat(30)], ['a'], ['a'], [], ['b'], ['c'], ['d'], ['e']];
    const issues = paths.map((path) => ({ message: 'secret', path }));
    const error = await refusal(schemaValidator(schemaOf(() => ({ issues }))), 1);
    expect(error.reason).toBe(
      `the schema refuses it at ${'long'.repeat(30).slice(0, 77)}…, a, b, c, d, … (8 issues; see error.issues)`,
    );
    expect(error.issues).toHaveLength(8);
  });
});

const hostile: unknown = new Proxy(new Error(), {
  get: () => {
    throw new Error('do not touch');
  },
  getPrototypeOf: () => {
    throw new Error('do not touch');
  },
});

describe('a schema that fails instead of judging says so, and refuses nothing', () => {
  const cause = new Error('no connection');
  const throwing = (thrown: unknown) => () => {
    throw thrown;
  };
  test.each<[string, StandardSchemaV1, unknown]>([
    ['throws', schemaOf(throwing(cause)), cause],
    ['rejects', schemaOf(() => Promise.reject(cause)), cause],
    [
      'valibot: rejects in a check',
      v.pipeAsync(
        v.string(),
        v.checkAsync(() => Promise.reject(cause)),
      ),
      cause,
    ],
    ['valibot: throws in a check', v.pipe(v.string(), v.check(throwing(cause))), cause],
    ['zod: throws in a refinement', z.string().refine(throwing(cause)), cause],
    ['zod: throws in a transform', z.string().transform(throwing(cause)), cause],
    ['arktype: throws in a narrow', type('string').narrow(throwing(cause)), cause],
    ['throws null', schemaOf(throwing(null)), null],
    ['rejects with undefined', schemaOf(() => deferredRejection(undefined)), undefined],
    ['throws a Proxy that throws', schemaOf(throwing(hostile)), hostile],
    ['rejects with a Proxy that throws', schemaOf(() => deferredRejection(hostile)), hostile],
    [
      'throws another error of ours',
      schemaOf(throwing(new InvalidOptionError('a', 'b', 'c'))),
      expect.anything(),
    ],
    ['answers nothing', schemaOf(() => undefined), expect.any(TypeError)],
    ['answers neither a value nor issues', schemaOf(() => ({})), expect.any(TypeError)],
    ['gives issues that are no list', schemaOf(() => ({ issues: true })), expect.any(TypeError)],
    ['gives an issue that is null', schemaOf(() => ({ issues: [null] })), expect.any(TypeError)],
  ])('%s', async (_how, schema, expected) => {
    const validate = schemaValidator(schema);
    const error: unknown = await Promise.resolve()
      .then(() => validate('text', 2))
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ValidatorError);
    const { code, index, message } = error as ValidatorError;
    expect({ code, index }).toEqual({ code: 'VALIDATOR_FAILED', index: 2 });
    expect(message).toMatch(/^payload at index 2 could not be validated/);
    if (expected === hostile) expect((error as Error).cause === hostile).toBe(true);
    else expect((error as Error).cause).toEqual(expected);
  });
});

/** A promise that is rejected with that, as it is. */
function deferredRejection(reason: unknown): Promise<never> {
  // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- that is what is tested
  return Promise.reject(reason);
}

test('a PayloadInvalidError that a check throws is a verdict, under the index of the payload', async () => {
  const verdict = new PayloadInvalidError(undefined, 'no such customer');
  const schema = schemaOf(() => {
    throw verdict;
  });
  const error = await refusal(schemaValidator(schema), 'text', 7);
  expect(error).toMatchObject({ index: 7, reason: 'no such customer', cause: verdict });
  expect(await refusal(schemaValidator(schema), 'text')).toBe(verdict);
});

test('a promise of another library is a promise', async () => {
  const thenable = {
    then: (resolve: (result: unknown) => void) => {
      resolve({ value: 7 });
    },
  };
  expect(await schemaValidator(schemaOf(() => thenable))('text')).toBe(7);
});

test.each([
  [undefined, 'undefined'],
  [null, 'null'],
  ['zod', 'another string'],
  [{ type: 'object' }, 'another object'],
  [{ '~standard': { version: 2, validate: () => 1 } }, 'another object'],
  [{ '~standard': { version: 1 } }, 'another object'],
  [{ '~standard': null }, 'another object'],
  [() => true, 'another function'],
])('%o is no Standard Schema', (schema, value) => {
  expect(() => schemaValidator(schema as never)).toThrow(InvalidOptionError);
  expect(() => schemaValidator(schema as never)).toThrow(
    `schema must be a Standard Schema, such as those of zod, valibot, arktype, got ${value}`,
  );
});
