// Long because every source of every field has its cases: options, environment, file, defaults, and their order.
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { format, inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CONFIG_FIELDS, IGNORED_KEYS, type ConfigFieldName } from '../src/config-fields.js';
import { Config, type ConfigOptions } from '../src/config.js';
import { InvalidOptionError, MissingConfigError, type SluiceError } from '../src/errors/index.js';

const DSN = 'postgres://user:S3cr3t@host/db';
const EXAMPLE = 'postgres://user:password@host:5432/database';
const DEFAULTS = {
  schema: 'public',
  maxConnections: 16,
  connectionTimeoutSeconds: 30,
  defaultLockTimeSeconds: 30,
  defaultMaxBatchSize: 100,
  maxReadCount: 5,
  heartbeatIntervalSeconds: 5,
  pollIntervalMs: 1_000,
  maxPayloadBytes: 1_048_576,
};
const NUMBERS = Object.keys(DEFAULTS).filter((name) => name !== 'schema') as ConfigFieldName[];

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'sluice-config-'));
});
afterAll(() => rm(root, { recursive: true }));

/** A new folder with these files in it. */
async function folder(files: Record<string, string> = {}): Promise<string> {
  const path = await mkdtemp(join(root, 'cwd-'));
  for (const [name, content] of Object.entries(files)) await writeFile(join(path, name), content);
  return path;
}

async function yaml(content: string): Promise<string> {
  return join(await folder({ 'x.yaml': content }), 'x.yaml');
}

async function errorOf(attempt: () => unknown): Promise<SluiceError> {
  try {
    await attempt();
  } catch (error) {
    if (error instanceof InvalidOptionError || error instanceof MissingConfigError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

const messageOf = async (attempt: () => unknown) => (await errorOf(attempt)).message;

/** What only plain JavaScript lets through. */
const untyped = (options: object) => options as ConfigOptions;

describe('fromDsn', () => {
  test('takes the DSN and defaults for the rest', () => {
    const config = Config.fromDsn(DSN);
    expect(config.dsn).toBe(DSN);
    expect({ ...config.toJSON(), dsn: undefined }).toEqual({ ...DEFAULTS, dsn: undefined });
  });

  test('takes overrides; undefined overrides nothing', () => {
    const config = Config.fromDsn(DSN, { maxConnections: 4, schema: undefined });
    expect(config).toMatchObject({ maxConnections: 4, schema: 'public', pollIntervalMs: 1_000 });
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
      'option must be a known name (nearest: maxConnections), got "maxConections"',
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

describe('fromEnv', () => {
  test('reads every variable', () => {
    const env: NodeJS.ProcessEnv = { PGQRS_DSN: DSN, PGQRS_SCHEMA: 'jobs' };
    for (const name of NUMBERS) env[CONFIG_FIELDS[name].env] = ' 7 ';
    const config = Config.fromEnv(env);
    expect(config).toMatchObject({ dsn: DSN, schema: 'jobs' });
    for (const name of NUMBERS) expect(config[name]).toBe(7);
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
});

describe('fromFile', () => {
  test('reads every key', async () => {
    const lines = NUMBERS.map((name) => `${CONFIG_FIELDS[name].key}: 7`);
    const config = await Config.fromFile(await yaml(`dsn: ${DSN}\nschema: jobs\n${lines.join('\n')}\n`));
    expect(config).toMatchObject({ dsn: DSN, schema: 'jobs' });
    for (const name of NUMBERS) expect(config[name]).toBe(7);
  });

  test('ignores what only pgqrs reads, and keys without a value', async () => {
    const ignored = IGNORED_KEYS.map((key) => `${key}: { max_payload_size_bytes: 1 }`).join('\n');
    const config = await Config.fromFile(await yaml(`dsn: ${DSN}\n${ignored}\nmax_connections:\n`));
    expect(config).toMatchObject({ maxConnections: 16, maxPayloadBytes: 1_048_576 });
  });

  test('understands an alias', async () => {
    const config = await Config.fromFile(
      await yaml(`validation_config: &n 7\nmax_connections: *n\ndsn: ${DSN}`),
    );
    expect(config.maxConnections).toBe(7);
  });

  test.each([
    ['max_connections: 0', 'max_connections', 'a whole number from 1 to 10000, got 0'],
    ['max_connections: "3"', 'max_connections', 'a whole number from 1 to 10000, got "3"'],
    ['schema: [a]', 'schema', 'at most 63 bytes, got an array'],
    ['heartbeat_interval: 1.5', 'heartbeat_interval', 'a whole number from 1 to 3600, got 1.5'],
  ])('refuses %s and names key and file', async (line, key, end) => {
    const path = await yaml(`dsn: ${DSN}\n${line}\n`);
    const error = await errorOf(() => Config.fromFile(path));
    expect(error).toMatchObject({ field: `${key} (file ${path})` });
    expect(error.message.endsWith(end)).toBe(true);
  });

  test.each([
    ['max_conections', 'max_connections'],
    ['maxConnections', 'max_connections'],
    ['pool-interval-ms', 'poll_interval_ms'],
    ['heartbeat', 'heartbeat_interval'],
    ['DSN', 'dsn'],
    ['shcema', 'schema'],
  ])('refuses the key %s and suggests %s', async (key, suggestion) => {
    const path = await yaml(`dsn: ${DSN}\n${key}: 3\n`);
    const error = await errorOf(() => Config.fromFile(path));
    expect(error).toMatchObject({ field: `key (file ${path})`, value: `"${key}"` });
    expect(error).toMatchObject({ rule: `a known name (nearest: ${suggestion})` });
  });

  test.each(['__proto__: { dsn: x }', '{dsn:postgres://u:S3cr3t@h/db}', '? [S3cr3t]\n: 1', '"": 1'])(
    'refuses the key in %j, and quotes it only if it looks like a name',
    async (content) => {
      const path = await yaml(content);
      const error = await errorOf(() => Config.fromFile(path));
      expect(error).toMatchObject({ field: `key (file ${path})` });
      expect(error.message).not.toContain('S3cr3t');
    },
  );

  test.each([
    ['dsn: "x\nschema: y\n', 'a syntax error at line 3, column 1: missing char'],
    ['schema: x\n  dsn: y\n', 'a syntax error at line 1, column 9: block as implicit key'],
    ['schema: x\nschema: y\n', 'a syntax error at line 2, column 1: duplicate key'],
    ['max_connections: *nowhere\n', 'an alias (*name) that cannot be resolved'],
    ['- dsn\n', 'something else than "key: value" lines'],
    ['just text\n', 'something else than "key: value" lines'],
  ])('refuses %j', async (content, got) => {
    const path = await yaml(content);
    expect(await messageOf(() => Config.fromFile(path))).toBe(
      `file ${path} must be a YAML mapping of configuration keys to values, got ${got}`,
    );
  });

  test.each(['', '# nothing\n', 'schema: jobs\n', 'dsn:\n'])('misses the DSN in %j', async (content) => {
    const path = await yaml(content);
    const error = await errorOf(() => Config.fromFile(path));
    expect(error).toBeInstanceOf(MissingConfigError);
    expect(error.message).toBe(`dsn is missing: put a URL such as ${EXAMPLE} into dsn (file ${path})`);
  });

  test.each([
    ['nowhere.yaml', 'there is no such file; check the path, or create it with a line "dsn: postgres://…"'],
    ['folder', 'it is a folder; name the file in it'],
    ['file/x.yaml', 'it cannot be read (ENOTDIR)'],
  ])('says why it cannot read %s', async (name, why) => {
    const cwd = await folder({ file: '' });
    await mkdir(join(cwd, 'folder'));
    const error = await errorOf(() => Config.fromFile(join(cwd, name)));
    expect(error.message).toBe(`path must be a readable YAML file, got "${join(cwd, name)}": ${why}`);
    expect(error.cause).toBeInstanceOf(Error);
  });

  const root = process.getuid?.() === 0;
  if (root) console.warn('test of an unreadable file skipped: root may read every file');
  test.skipIf(root)('says that it may not read a file', async () => {
    const path = await yaml(`dsn: ${DSN}`);
    await chmod(path, 0);
    expect(await messageOf(() => Config.fromFile(path))).toContain('this process may not read it');
  });
});

describe('load', () => {
  const named: ConfigFieldName[] = ['schema', ...NUMBERS];

  test.each(named)('takes %s from options, else environment, else file, else default', async (name) => {
    const { env: variable, key } = CONFIG_FIELDS[name];
    const value = (n: number) => (name === 'schema' ? `s${n}` : n);
    const cwd = await folder({ 'pgqrs.yaml': `dsn: ${DSN}\n${key}: ${value(3)}\n` });
    const bare = await folder({ 'pgqrs.yaml': `dsn: ${DSN}\n` });
    const env = { [variable]: String(value(2)) };
    const explicit = untyped({ [name]: value(1) });

    expect((await Config.load({ ...explicit, env, cwd }))[name]).toBe(value(1));
    expect((await Config.load({ env, cwd }))[name]).toBe(value(2));
    expect((await Config.load({ env: {}, cwd }))[name]).toBe(value(3));
    expect((await Config.load({ env: {}, cwd: bare }))[name]).toBe(CONFIG_FIELDS[name].default);
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
      'option must be a known name (nearest: schema), got "shema"',
    );
  });
});

describe('a Config', () => {
  test('cannot be changed', () => {
    const config = Config.fromDsn(DSN);
    expect(() => Object.assign(config, { schema: 'x' })).toThrow(TypeError);
    expect(() => Object.assign(config, { dsn: 'x' })).toThrow(TypeError);
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
    expect(await errorOf(() => config.with(untyped({ pollInterval: 5 })))).toMatchObject({ field: 'option' });
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

describe('the description of', () => {
  test.each(Object.keys(CONFIG_FIELDS) as ConfigFieldName[])('%s agrees with the table', async (name) => {
    const source = await readFile(new URL('../src/config-fields.ts', import.meta.url), 'utf8');
    const comment = source.split('/**').find((part) => new RegExp(String.raw`\*/\s+${name}: `).test(part));
    const { env, key, default: preset } = CONFIG_FIELDS[name];
    expect(comment).toContain(`\`${env}\`, \`${key}\`.`);
    if (preset !== undefined)
      expect(comment).toContain(`@default ${typeof preset === 'string' ? `'${preset}'` : preset}`);
    if (typeof preset === 'number') {
      const error = await errorOf(() => CONFIG_FIELDS[name].check(name, 0));
      const range = /from (\d+) to (\d+)/.exec(error.message);
      expect(comment).toContain(
        `${Number(range![1]).toLocaleString('en')} to ${Number(range![2]).toLocaleString('en')}`,
      );
    }
  });
});
