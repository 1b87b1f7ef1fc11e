import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { IGNORED_KEYS } from '../src/config-fields.js';
import { Config } from '../src/config.js';
import { MissingConfigError } from '../src/errors/index.js';
import { DSN, errorOf, EXAMPLE, folder, messageOf, samples, yaml, yamlOf } from './support/config.js';

describe('fromFile', () => {
  test.each([0, 1, 2] as const)('reads every key (samples %j)', async (n) => {
    const config = await Config.fromFile(await yaml(yamlOf({ dsn: DSN, ...samples(n) })));
    expect(config.dsn).toBe(DSN);
    expect(config.toJSON()).toMatchObject(samples(n));
  });

  test('ignores what only pgqrs reads, and keys without a value', async () => {
    const ignored = IGNORED_KEYS.map((key) => `${key}: { max_connections: 1, mode: durable }`).join('\n');
    const config = await Config.fromFile(await yaml(`dsn: ${DSN}\n${ignored}\nmax_connections:\n`));
    expect(config.toJSON()).toStrictEqual(Config.fromDsn(DSN).toJSON());
  });

  test('understands an alias', async () => {
    const config = await Config.fromFile(
      await yaml(
        `dsn: ${DSN}\nsqlite: &n 7\nmax_connections: *n\nvalidation_config: { max_object_depth: *n }`,
      ),
    );
    expect(config).toMatchObject({ maxConnections: 7, maxDepth: 7 });
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

describe('validation_config', () => {
  const fromYaml = async (content: string) => Config.fromFile(await yaml(`dsn: ${DSN}\n${content}\n`));

  test('need not have every key', async () => {
    const config = await fromYaml('validation_config:\n  max_object_depth: 7');
    expect(config).toMatchObject({ maxDepth: 7, maxPayloadBytes: 1_048_576, maxEnqueueBurst: 50 });
  });

  test.each([
    'validation_config:',
    'validation_config: {}',
    'validation_config:\n  max_object_depth:\n  required_keys: ~\n  max_payload_size_bytes: null',
  ])('says nothing with %j', async (content) => {
    expect((await fromYaml(content)).toJSON()).toStrictEqual(Config.fromDsn(DSN).toJSON());
  });

  test.each([
    [DSN, 'a string'],
    ['[S3cr3t]', 'an array'],
    ['7', 'a number'],
  ])('cannot be %s, which is not quoted', async (value, got) => {
    const error = await errorOf(() => fromYaml(`validation_config: ${value}`));
    expect(error).toMatchObject({ rule: 'an object of settings', value: got });
    expect(error.message).toMatch(/^validation_config \(file .*x\.yaml\) must be /);
  });

  test('refuses a key that it does not have, and suggests one that it has', async () => {
    const error = await errorOf(() => fromYaml('validation_config: { max_strng_length: 3 }'));
    expect(error.message).toMatch(/^key of validation_config \(file .*x\.yaml\) must be /);
    expect(error).toMatchObject({
      rule: 'a known name (nearest: max_string_length)',
      value: '"max_strng_length"',
    });
  });

  test.each([
    ['max_string_length: 3', 'validation_config.max_string_length'],
    ['maxObjectDepth: 3', 'validation_config.max_object_depth'],
    ['validation_config: { max_connections: 3 }', 'max_connections'],
    ['validation_config: { max_object_depth: 3, when-rate-limited: wait }', 'when_rate_limited'],
  ])('is told from the top level: %s belongs to %s', async (content, suggestion) => {
    const error = await errorOf(() => fromYaml(content));
    expect(error).toMatchObject({ rule: `a known name (nearest: ${suggestion})` });
  });

  test('is a mapping: names with dots are unknown', async () => {
    expect(await errorOf(() => fromYaml('validation_config.max_object_depth: 3'))).toMatchObject({
      value: '"validation_config.max_object_depth"',
    });
  });

  test.each([
    ['max_string_length: 0', 'a whole number from 1 to 268435455, got 0'],
    ['max_object_depth: "7"', 'a whole number from 0 to 10000, got "7"'],
    ['forbidden_keys: constructor', 'a list of strings, got "constructor"'],
    ['forbidden_keys: { a: b }', 'a list of strings, got an object'],
    ['required_keys: [a, 7]', 'a list of strings, got 7 at index 1'],
    ['max_enqueue_per_second: .inf', 'a number above 0, got Infinity'],
    ['max_enqueue_burst: 0.5', 'a whole number of at least 1, got 0.5'],
  ])('refuses %s and names key and file', async (line, end) => {
    const path = await yaml(`dsn: ${DSN}\nvalidation_config:\n  ${line}\n`);
    const key = line.slice(0, line.indexOf(':'));
    expect(await messageOf(() => Config.fromFile(path))).toBe(
      `validation_config.${key} (file ${path}) must be ${end}`,
    );
  });
});
