import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import { Config } from '../src/config.js';
import { MissingConfigError } from '../src/errors/index.js';
import { DSN, envOf, errorOf, EXAMPLE, messageOf, samples } from './support/config.js';

describe('fromEnv', () => {
  test.each([0, 1, 2] as const)('reads every variable (samples %j)', (n) => {
    expect(Config.fromEnv({ PGQRS_DSN: DSN, ...envOf(samples(n)) }).toJSON()).toMatchObject(samples(n));
  });

  test('takes white space around a number', () => {
    expect(Config.fromEnv({ PGQRS_DSN: DSN, PGQRS_MAX_CONNECTIONS: ' 7 ' }).maxConnections).toBe(7);
  });

  test('takes an empty variable for one that is not set', () => {
    const config = Config.fromEnv({ PGQRS_DSN: DSN, PGQRS_SCHEMA: '', PGQRS_MAX_CONNECTIONS: '' });
    expect(config).toMatchObject({ schema: 'public', maxConnections: 16 });
  });

  test.each([{}, { PGQRS_DSN: '' }])('misses the DSN in %j', async (env) => {
    const error = await errorOf(() => Config.fromEnv(env));
    expect(error).toBeInstanceOf(MissingConfigError);
    expect(error).toMatchObject({ code: 'MISSING_CONFIG', field: 'PGQRS_DSN' });
    expect(error.message).toBe(
      `PGQRS_DSN is missing: put a URL such as ${EXAMPLE} into PGQRS_DSN (environment)`,
    );
  });

  test.each(['many', '1e3', '0x10', '1.5', '-1', ' ', '99999999999999999999'])(
    'refuses %j as a number and names the variable',
    async (text) => {
      const attempt = () => Config.fromEnv({ PGQRS_DSN: DSN, PGQRS_MAX_READ_CT: text });
      expect(await errorOf(attempt)).toMatchObject({
        field: 'PGQRS_MAX_READ_CT (environment)',
        rule: 'a whole number from 1 to 2147483647',
        value: /^-?\d+$/.test(text) ? String(Number(text)) : `"${text}"`,
      });
    },
  );

  test('refuses another word than wait and reject', async () => {
    const attempt = () => Config.fromEnv({ PGQRS_DSN: DSN, PGQRS_WHEN_RATE_LIMITED: 'drop' });
    expect(await messageOf(attempt)).toBe(
      'PGQRS_WHEN_RATE_LIMITED (environment) must be one of wait, reject, got "drop"',
    );
  });
});

describe('PGQRS_VALIDATION_CONFIG', () => {
  const fromJson = (json: string) => Config.fromEnv({ PGQRS_DSN: DSN, PGQRS_VALIDATION_CONFIG: json });

  test('need not have every key', () => {
    expect(fromJson('{"max_object_depth": 7}')).toMatchObject({ maxDepth: 7, maxPayloadBytes: 1_048_576 });
  });

  test.each([
    '',
    '{}',
    'null',
    ' { "max_object_depth": null, "forbidden_keys": null, "max_enqueue_burst": null } ',
  ])('says nothing with %j', (json) => {
    expect(fromJson(json).toJSON()).toStrictEqual(Config.fromDsn(DSN).toJSON());
  });

  test.each([
    ['S3cr3t', 'a JSON object of settings, got text that is not JSON'],
    [DSN, 'a JSON object of settings, got text that is not JSON'],
    ['{"max_object_depth": S3cr3t}', 'a JSON object of settings, got text that is not JSON'],
    ["{'max_object_depth': 7}", 'a JSON object of settings, got text that is not JSON'],
    [' ', 'a JSON object of settings, got text that is not JSON'],
    [JSON.stringify(DSN), 'an object of settings, got a string'],
    ['["S3cr3t"]', 'an object of settings, got an array'],
    ['7', 'an object of settings, got a number'],
    ['false', 'an object of settings, got a boolean'],
  ])('refuses %j and quotes none of it', async (json, end) => {
    const error = await errorOf(() => fromJson(json));
    expect(error.message).toBe(`PGQRS_VALIDATION_CONFIG (environment) must be ${end}`);
    expect(inspect(error)).not.toContain('S3cr3t');
  });

  test.each([
    ['max_strng_length', 'max_string_length'],
    ['maxObjectDepth', 'max_object_depth'],
    ['max_payload_bytes', 'max_payload_size_bytes'],
    ['PGQRS_FORBIDDEN_KEYS', 'forbidden_keys'],
  ])('refuses the key %s and suggests %s', async (key, suggestion) => {
    expect(await messageOf(() => fromJson(`{"${key}": 3}`))).toBe(
      `key of PGQRS_VALIDATION_CONFIG (environment) must be a known name (nearest: ${suggestion}), got "${key}"`,
    );
  });

  test.each(['{"__proto__": {"max_object_depth": 1}}', '{"postgres://u:S3cr3t@h/db": 1}', '{"": 1}'])(
    'refuses the key in %j, and quotes it only if it looks like a name',
    async (json) => {
      const error = await errorOf(() => fromJson(json));
      expect(error).toMatchObject({ field: 'key of PGQRS_VALIDATION_CONFIG (environment)' });
      expect(inspect(error)).not.toContain('S3cr3t');
    },
  );

  test('takes numbers as numbers only, and says which is none', async () => {
    expect(await messageOf(() => fromJson('{"max_object_depth": "7"}'))).toBe(
      'PGQRS_VALIDATION_CONFIG.max_object_depth (environment) must be a whole number from 0 to 10000, got "7"',
    );
    expect(await messageOf(() => fromJson('{"max_enqueue_per_second": 1e999}'))).toBe(
      'PGQRS_VALIDATION_CONFIG.max_enqueue_per_second (environment) must be a number above 0, got Infinity',
    );
  });

  test('is not looked for under a name with a dot', () => {
    const env = { PGQRS_DSN: DSN, 'PGQRS_VALIDATION_CONFIG.max_object_depth': '7' };
    expect(Config.fromEnv(env).maxDepth).toBe(127);
  });
});
