import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { CONFIG_FIELDS, REQUIRED, type ConfigFieldName } from '../src/config-fields.js';
import { Config } from '../src/config.js';
import type { PayloadRules } from '../src/validation.js';
import { DSN, errorOf, messageOf, untyped } from './support/config.js';

const FIELDS = Object.keys(CONFIG_FIELDS) as ConfigFieldName[];

describe('the description of', () => {
  test.each(FIELDS)('%s agrees with the table', async (name) => {
    const source = await readFile(new URL('../src/config-fields.ts', import.meta.url), 'utf8');
    const comment = source.split('/**').find((part) => new RegExp(String.raw`\*/\s+${name}: `).test(part));
    const { env, key } = CONFIG_FIELDS[name];
    expect(comment).toContain(`\`${env}\`, \`${key}\`.`);
    expect(comment).toContain(describedDefault(name));
    expect(comment).toContain(await describedRange(name));
  });

  function describedDefault(name: ConfigFieldName): string {
    const { default: preset } = CONFIG_FIELDS[name];
    if (preset === REQUIRED) return 'Required.';
    if (preset === undefined) return '@default no limit';
    if (typeof preset === 'number') return `@default ${preset}`;
    return `@default ${JSON.stringify(preset).replaceAll('"', "'").replaceAll(',', ', ')}`;
  }

  /** As the message has it that refuses the field, with commas in its numbers; nothing where it is not a number. */
  async function describedRange(name: ConfigFieldName): Promise<string> {
    const message = await messageOf(() => CONFIG_FIELDS[name].check(name, -1));
    const range = / number (?:from |of )?(.*), got -1$/.exec(message)?.[1] ?? '';
    return range.replace(/\d+/g, (digits) => Number(digits).toLocaleString('en'));
  }
});

test('the table has ranges to hold the descriptions against', async () => {
  expect(await messageOf(() => CONFIG_FIELDS.maxDepth.check('x', -1))).toBe(
    'x must be a whole number from 0 to 10000, got -1',
  );
});

test('only the DSN is required', () => {
  expect(FIELDS.filter((name) => CONFIG_FIELDS[name].default === REQUIRED)).toEqual(['dsn']);
});

test('no two fields share a name in the environment or in a file', () => {
  for (const names of ['env', 'key'] as const) {
    expect(new Set(FIELDS.map((name) => CONFIG_FIELDS[name][names])).size).toBe(FIELDS.length);
  }
});

test('a Config has the rules for payloads', () => {
  const rules: PayloadRules = Config.fromDsn(DSN);
  expect(rules.maxPayloadBytes).toBe(1_048_576);
});

test.each([
  ['maxPayloadBytes', [0, 268_435_456, 1.5, '1', null, NaN], 'a whole number from 1 to 268435455'],
  ['maxStringBytes', [0, 268_435_456, 1.5, '1', null, Infinity], 'a whole number from 1 to 268435455'],
  ['maxDepth', [-1, 10_001, 0.5, '1', null, Infinity], 'a whole number from 0 to 10000'],
  ['maxEnqueuePerSecond', [0, -1, '1', null, NaN, Infinity], 'a number above 0'],
  ['maxEnqueueBurst', [0, -1, 1.5, '1', null, Infinity], 'a whole number of at least 1'],
])('%s refuses %j', async (name, values, rule) => {
  for (const value of values) {
    const got = typeof value === 'string' ? `"${value}"` : String(value);
    expect(await messageOf(() => Config.fromDsn(DSN, untyped({ [name]: value })))).toBe(
      `${name} (option) must be ${rule}, got ${got}`,
    );
  }
});

describe.each(['forbiddenKeys', 'requiredKeys'])('%s', (name) => {
  test.each([
    ['a', '"a"'],
    [null, 'null'],
    [{ 0: 'a', length: 1 }, 'an object'],
    [new Set(['a']), 'an object'],
    [['a', 7], '7 at index 1'],
    [['a', null], 'null at index 1'],
    [[['a']], 'an array at index 0'],
    [Array(1), 'undefined at index 0'],
  ])('refuses %j', async (value, got) => {
    expect(await messageOf(() => Config.fromDsn(DSN, untyped({ [name]: value })))).toBe(
      `${name} (option) must be a list of strings, got ${got}`,
    );
  });
});

test.each(['drop', 'WAIT', '', true, null])('whenRateLimited refuses %j', async (value) => {
  const attempt = () => Config.fromDsn(DSN, untyped({ whenRateLimited: value }));
  expect(await errorOf(attempt)).toMatchObject({
    field: 'whenRateLimited (option)',
    rule: 'one of wait, reject',
  });
});
