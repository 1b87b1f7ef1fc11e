import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CONFIG_FIELDS } from '../src/config-fields.js';
import { Config, type ConfigOptions } from '../src/config.js';
import {
  DSN,
  envOf,
  errorOf,
  EXAMPLE,
  folder,
  messageOf,
  NAMES,
  SAMPLES,
  samples,
  untyped,
  yamlOf,
} from './support/config.js';

describe('load', () => {
  test.each(NAMES)('takes %s from options, else environment, else file, else default', async (name) => {
    const [fromOptions, fromEnv, fromFile] = SAMPLES[name].map((value) => ({ [name]: value }));
    const cwd = await folder({ 'pgqrs.yaml': yamlOf({ dsn: DSN, ...fromFile }) });
    const bare = await folder({ 'pgqrs.yaml': yamlOf({ dsn: DSN }) });
    const env = envOf({ ...fromEnv });

    expect(await Config.load({ ...fromOptions, env, cwd })).toMatchObject(fromOptions!);
    expect(await Config.load({ [name]: undefined, env, cwd })).toMatchObject(fromEnv!);
    expect(await Config.load({ env: {}, cwd })).toMatchObject(fromFile!);
    expect((await Config.load({ env: {}, cwd: bare }))[name]).toEqual(CONFIG_FIELDS[name].default);
  });

  test('mixes the sources field by field within the rules for payloads too', async () => {
    const cwd = await folder({
      'pgqrs.yaml': yamlOf({ dsn: DSN, maxStringBytes: 3, maxDepth: 3, forbiddenKeys: ['file'] }),
    });
    const env = envOf({ maxStringBytes: 2, maxDepth: null, requiredKeys: ['environment'] });
    const config = await Config.load({ maxEnqueuePerSecond: 1, env, cwd });
    expect(config).toMatchObject({
      maxEnqueuePerSecond: 1,
      maxStringBytes: 2,
      requiredKeys: ['environment'],
      maxDepth: 3,
      forbiddenKeys: ['file'],
      maxEnqueueBurst: 50,
    });
  });

  test('takes a list whole: an empty one wins over a longer one', async () => {
    const cwd = await folder({ 'pgqrs.yaml': yamlOf({ dsn: DSN, forbiddenKeys: ['a', 'b'] }) });
    expect((await Config.load({ env: envOf({ forbiddenKeys: [] }), cwd })).forbiddenKeys).toEqual([]);
    expect((await Config.load({ forbiddenKeys: [], env: {}, cwd })).forbiddenKeys).toEqual([]);
  });

  test('checks the keys of a file and of a variable with JSON even if all is overridden', async () => {
    const cwd = await folder({ 'pgqrs.yaml': 'validation_config: { x: 1 }' });
    const options = { ...samples(0), dsn: DSN };
    expect(await errorOf(() => Config.load({ ...options, env: {}, cwd }))).toMatchObject({
      field: `key of validation_config (file ${join(cwd, 'pgqrs.yaml')})`,
    });
    const env = { PGQRS_VALIDATION_CONFIG: '{"x": 1}' };
    expect(await errorOf(() => Config.load({ ...options, env, cwd }))).toMatchObject({
      field: 'key of PGQRS_VALIDATION_CONFIG (environment)',
    });
  });

  test('takes the DSN in the same order', async () => {
    const cwd = await folder({ 'pgqrs.yaml': 'dsn: postgres://file/db' });
    const env = { PGQRS_DSN: 'postgres://environment/db' };
    expect((await Config.load({ dsn: 'postgres://option/db', env, cwd })).dsn).toBe('postgres://option/db');
    expect((await Config.load({ env, cwd })).dsn).toBe('postgres://environment/db');
    expect((await Config.load({ env: { PGQRS_DSN: '' }, cwd })).dsn).toBe('postgres://file/db');
  });

  test('mixes the sources field by field', async () => {
    const cwd = await folder({ 'pgqrs.yaml': `dsn: ${DSN}\nmax_read_ct: 9\n` });
    const env = { PGQRS_MAX_CONNECTIONS: '8' };
    expect(await Config.load({ schema: 'jobs', env, cwd })).toMatchObject({
      dsn: DSN,
      schema: 'jobs',
      maxConnections: 8,
      maxReadCount: 9,
      pollIntervalMs: 1_000,
    });
  });

  test('takes the given file, else that of PGQRS_CONFIG_FILE, else pgqrs.yaml, else pgqrs.yml', async () => {
    const files = Object.fromEntries(
      ['given.yaml', 'named.yaml', 'pgqrs.yaml', 'pgqrs.yml'].map((name) => [
        name,
        `schema: ${name.replace('.', '_')}`,
      ]),
    );
    const cwd = await folder(files);
    const options = { dsn: DSN, cwd, env: { PGQRS_CONFIG_FILE: 'named.yaml' } };
    expect((await Config.load({ ...options, file: 'given.yaml' })).schema).toBe('given_yaml');
    expect((await Config.load({ ...options, file: join(cwd, 'given.yaml') })).schema).toBe('given_yaml');
    expect((await Config.load(options)).schema).toBe('named_yaml');
    expect((await Config.load({ ...options, env: { PGQRS_CONFIG_FILE: '' } })).schema).toBe('pgqrs_yaml');
    await rm(join(cwd, 'pgqrs.yaml'));
    expect((await Config.load({ ...options, env: {} })).schema).toBe('pgqrs_yml');
    await rm(join(cwd, 'pgqrs.yml'));
    expect((await Config.load({ ...options, env: {} })).schema).toBe('public');
  });

  test('insists on a file that was named, and says who named it', async () => {
    const cwd = await folder();
    const env = { PGQRS_DSN: DSN };
    expect(await errorOf(() => Config.load({ cwd, env, file: 'x.yaml' }))).toMatchObject({
      field: 'file (option)',
    });
    expect(await errorOf(() => Config.load({ cwd, env, file: '' }))).toMatchObject({
      field: 'file (option)',
    });
    expect(
      await errorOf(() => Config.load({ cwd, env: { ...env, PGQRS_CONFIG_FILE: 'x.yaml' } })),
    ).toMatchObject({ field: 'PGQRS_CONFIG_FILE (environment)' });
    await mkdir(join(cwd, 'pgqrs.yaml'));
    expect(await errorOf(() => Config.load({ cwd, env }))).toMatchObject({ field: 'file (default)' });
  });

  test('checks a value wherever it comes from, but not one that is overridden', async () => {
    const cwd = await folder({ 'pgqrs.yaml': `dsn: ${DSN}\nmax_connections: 0\n` });
    const field = async (options: ConfigOptions, env: NodeJS.ProcessEnv) =>
      errorOf(() => Config.load({ ...options, env, cwd }));
    expect(await field({ maxConnections: 0 }, {})).toMatchObject({ field: 'maxConnections (option)' });
    expect(await field({}, { PGQRS_MAX_CONNECTIONS: 'x' })).toMatchObject({
      field: 'PGQRS_MAX_CONNECTIONS (environment)',
      value: '"x"',
    });
    expect(await field({}, {})).toMatchObject({
      field: `max_connections (file ${join(cwd, 'pgqrs.yaml')})`,
    });
    expect((await Config.load({ maxConnections: 2, env: {}, cwd })).maxConnections).toBe(2);
  });

  test('says every place that a missing DSN could stand in', async () => {
    const cwd = await folder();
    const error = await errorOf(() => Config.load({ env: {}, cwd }));
    expect(error).toMatchObject({ code: 'MISSING_CONFIG', field: 'dsn' });
    expect(error.message).toBe(
      `dsn is missing: put a URL such as ${EXAMPLE} into dsn (option) or PGQRS_DSN (environment) ` +
        `or dsn (file ${join(cwd, 'pgqrs.yaml')} or ${join(cwd, 'pgqrs.yml')})`,
    );
  });

  test('reads the environment and the working directory of the process unless told otherwise', async () => {
    const { PGQRS_DSN: before } = process.env;
    process.env['PGQRS_DSN'] = DSN;
    try {
      expect((await Config.load()).dsn).toBe(DSN);
      expect(Config.fromEnv().dsn).toBe(DSN);
    } finally {
      if (before === undefined) delete process.env['PGQRS_DSN'];
      else process.env['PGQRS_DSN'] = before;
    }
  });

  test('refuses an unknown option', async () => {
    expect(await messageOf(() => Config.load(untyped({ shema: 'x', env: {} })))).toBe(
      'option of Config.load() must be a known name (nearest: schema), got "shema"',
    );
  });
});
