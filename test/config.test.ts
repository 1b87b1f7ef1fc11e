import { format, inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import { CONFIG_FIELDS } from '../src/config-fields.js';
import { Config } from '../src/config.js';
import { DSN, errorOf, EXAMPLE, messageOf, NAMES, SAMPLES, samples, untyped } from './support/config.js';

const DEFAULTS = {
  schema: 'public',
  maxConnections: 16,
  connectionTimeoutSeconds: 30,
  defaultLockTimeSeconds: 30,
  defaultMaxBatchSize: 100,
  maxReadCount: 5,
  heartbeatIntervalSeconds: 2,
  pollIntervalMs: 1_000,
  maxPayloadBytes: 1_048_576,
  maxStringBytes: undefined,
  maxDepth: 127,
  readableByPgqrs: true,
  forbiddenKeys: ['__proto__', 'constructor'],
  requiredKeys: [],
  maxEnqueuePerSecond: undefined,
  maxEnqueueBurst: 50,
  whenRateLimited: 'wait',
};

describe('fromDsn', () => {
  test('takes the DSN and defaults for the rest', () => {
    const config = Config.fromDsn(DSN);
    expect(config.dsn).toBe(DSN);
    expect({ ...config.toJSON(), dsn: undefined }).toStrictEqual({ ...DEFAULTS, dsn: undefined });
  });

  test('takes overrides; undefined overrides nothing', () => {
    const config = Config.fromDsn(DSN, { maxConnections: 4, schema: undefined, maxEnqueueBurst: undefined });
    expect(config).toMatchObject({
      maxConnections: 4,
      schema: 'public',
      pollIntervalMs: 1_000,
      maxEnqueueBurst: 50,
    });
  });

  test.each([0, 1, 2] as const)('takes every setting (samples %j)', (n) => {
    expect(Config.fromDsn(DSN, samples(n)).toJSON()).toMatchObject(samples(n));
  });

  test('refuses a missing DSN, a bad value and an unknown option, and says which', async () => {
    expect(await messageOf(() => Config.fromDsn(undefined as unknown as string))).toBe(
      `dsn is missing: put a URL such as ${EXAMPLE} into dsn (option)`,
    );
    expect(await messageOf(() => Config.fromDsn('mysql://h/db'))).toBe(
      `dsn (option) must be a URL such as ${EXAMPLE}, got a mysql:// URL`,
    );
    expect(await messageOf(() => Config.fromDsn(DSN, { maxConnections: 0 }))).toBe(
      'maxConnections (option) must be a whole number from 1 to 10000, got 0',
    );
    expect(await messageOf(() => Config.fromDsn(DSN, untyped({ maxConections: 4 })))).toBe(
      'option of Config.fromDsn() must be a known name (nearest: maxConnections), got "maxConections"',
    );
  });
});

describe('fromDsnWithSchema', () => {
  test('takes both', () => {
    expect(Config.fromDsnWithSchema(DSN, 'jobs')).toMatchObject({
      dsn: DSN,
      schema: 'jobs',
      maxReadCount: 5,
    });
  });

  test.each(['', '1a', 'a-b', 'a"b', 'x'.repeat(64)])('refuses the schema %j', async (schema) => {
    const error = await errorOf(() => Config.fromDsnWithSchema(DSN, schema));
    expect(error).toMatchObject({ field: 'schema (option)', code: 'INVALID_OPTION' });
  });
});

describe('a Config', () => {
  test('cannot be changed', () => {
    const config = Config.fromDsn(DSN);
    expect(() => Object.assign(config, { schema: 'x' })).toThrow(TypeError);
    expect(() => Object.assign(config, { dsn: 'x' })).toThrow(TypeError);
    expect(() => (config.forbiddenKeys as string[]).push('x')).toThrow(TypeError);
    expect(() => (config.requiredKeys as string[]).push('x')).toThrow(TypeError);
  });

  test('keeps lists of its own, which it cannot change either', () => {
    const requiredKeys = ['id'];
    const config = Config.fromDsn(DSN, { requiredKeys });
    requiredKeys.push('at');
    expect(config.requiredKeys).toEqual(['id']);
    expect(() => (config.requiredKeys as string[]).push('x')).toThrow(TypeError);
  });

  test('is copied with changes, which are checked', async () => {
    const config = Config.fromDsn(DSN, { maxConnections: 4 });
    const copy = config.with({ schema: 'jobs', maxConnections: undefined });
    expect(copy).toMatchObject({ dsn: DSN, schema: 'jobs', maxConnections: 4 });
    expect(config.schema).toBe('public');
    expect(config.with({ dsn: 'postgres://other/db' })).toMatchObject({
      dsn: 'postgres://other/db',
      maxConnections: 4,
    });
    expect(await messageOf(() => config.with({ pollIntervalMs: 0 }))).toBe(
      'pollIntervalMs (option) must be a whole number from 1 to 3600000, got 0',
    );
    expect(await errorOf(() => config.with(untyped({ pollInterval: 5 })))).toMatchObject({
      field: 'option of config.with()',
    });
  });

  test.each(NAMES)('is copied with another %s and nothing else changed', (name) => {
    const config = Config.fromDsn(DSN, samples(0));
    const change = { [name]: SAMPLES[name][1] };
    expect(config.with(change).toJSON()).toStrictEqual({ ...config.toJSON(), ...change });
    expect(config.with({ [name]: undefined }).toJSON()).toStrictEqual(config.toJSON());
  });

  test('shows every setting', () => {
    const config = Config.fromDsn(DSN, samples(1));
    expect(JSON.parse(JSON.stringify(config))).toEqual({
      ...samples(1),
      dsn: 'postgres://user:***@host/db',
    });
    for (const name of NAMES) expect(inspect(config)).toContain(`${name}: `);
    expect(inspect(Config.fromDsn(DSN))).toContain('maxStringBytes: undefined');
  });

  test('hides the password however it is shown', () => {
    const config = Config.fromDsn(`${DSN}?password=S3cr3t`);
    const redacted = 'postgres://user:***@host/db?password=***';
    expect(config.redactedDsn).toBe(redacted);
    const views = [
      String(config),
      JSON.stringify({ config }),
      inspect(config),
      inspect({ deep: { er: { config } } }, { depth: 9 }),
      format('%s %o %O %j', config, config, config, config),
    ];
    for (const view of views) {
      expect(view).toContain(redacted);
      expect(view).toContain('public');
      expect(view).not.toContain('S3cr3t');
    }
    const plain = [
      inspect(config, { customInspect: false, showHidden: true }),
      JSON.stringify({ ...config.toJSON() }),
    ];
    for (const view of plain) expect(view).not.toContain('S3cr3t');
  });

  test('lists the settings in the order of the table, also as JSON', () => {
    expect(Object.keys(Config.fromDsn(DSN).toJSON())).toEqual(Object.keys(CONFIG_FIELDS));
  });
});
