import { describe, expect, test } from 'vitest';
import { Config } from '../src/config.js';
import { DSN, folder, yaml } from './support/config.js';

const PGQRS = {
  pollIntervalMs: 250,
  maxPayloadBytes: 1_048_576,
  maxStringBytes: 1_024,
  maxDepth: 5,
  forbiddenKeys: ['__proto__', 'constructor'],
  requiredKeys: [],
  maxEnqueuePerSecond: 1_000,
  maxEnqueueBurst: 50,
  whenRateLimited: 'reject',
};

describe('pgqrsDefaults', () => {
  test("are pgqrs' own", () => {
    expect(Config.pgqrsDefaults).toStrictEqual(PGQRS);
  });

  test('make a Config, alone or with changes', () => {
    const defaults = Config.fromDsn(DSN).toJSON();
    expect(Config.fromDsn(DSN, Config.pgqrsDefaults).toJSON()).toStrictEqual({ ...defaults, ...PGQRS });
    const changed = Config.fromDsn(DSN, {
      ...Config.pgqrsDefaults,
      maxDepth: 8,
      maxEnqueuePerSecond: undefined,
      whenRateLimited: 'wait',
    });
    expect(changed.toJSON()).toStrictEqual({
      ...defaults,
      ...PGQRS,
      maxDepth: 8,
      maxEnqueuePerSecond: undefined,
      whenRateLimited: 'wait',
    });
    expect(Config.fromDsn(DSN).with(Config.pgqrsDefaults)).toMatchObject(PGQRS);
  });

  test('win over environment and file when they are given as options', async () => {
    const cwd = await folder({ 'pgqrs.yaml': `dsn: ${DSN}\nvalidation_config: { max_object_depth: 9 }` });
    const env = { PGQRS_POLL_INTERVAL_MS: '9' };
    expect(await Config.load({ ...Config.pgqrsDefaults, env, cwd })).toMatchObject(PGQRS);
  });

  test('cannot be changed', () => {
    const { forbiddenKeys, requiredKeys } = Config.pgqrsDefaults;
    for (const part of [Config.pgqrsDefaults, forbiddenKeys, requiredKeys]) {
      expect(Object.isFrozen(part)).toBe(true);
    }
  });
});

/** Every key of a file that pgqrs 0.15.3 reads, with its own values. */
const SAMPLE_FILE = `
dsn: ${DSN}
schema: pgqrs
max_connections: 16
connection_timeout_seconds: 30
default_lock_time_seconds: 5
default_max_batch_size: 100
max_read_ct: 5
heartbeat_interval: 5
poll_interval_ms: 250
validation_config:
  max_payload_size_bytes: 1048576
  max_string_length: 1024
  max_object_depth: 5
  forbidden_keys:
    - __proto__
    - constructor
  required_keys: []
  max_enqueue_per_second: 1000
  max_enqueue_burst: 50
sqlite:
  use_wal: true
s3:
  mode: durable
  cache_dir: null
`;

/** What the sample says of validation, as pgqrs' variable has it. */
const SAMPLE_JSON = `{
  "max_payload_size_bytes": 1048576, "max_string_length": 1024, "max_object_depth": 5,
  "forbidden_keys": ["__proto__", "constructor"], "required_keys": [],
  "max_enqueue_per_second": 1000, "max_enqueue_burst": 50
}`;

test("a file with every key of pgqrs' is read", async () => {
  const config = await Config.fromFile(await yaml(SAMPLE_FILE));
  expect(config.toJSON()).toStrictEqual({
    ...Config.fromDsn(DSN, Config.pgqrsDefaults).toJSON(),
    schema: 'pgqrs',
    defaultLockTimeSeconds: 5,
    heartbeatIntervalSeconds: 5,
    whenRateLimited: 'wait',
  });
});

test("PGQRS_VALIDATION_CONFIG with every key of pgqrs' is read", () => {
  const config = Config.fromEnv({ PGQRS_DSN: DSN, PGQRS_VALIDATION_CONFIG: SAMPLE_JSON });
  expect(config.toJSON()).toStrictEqual(
    Config.fromDsn(DSN, {
      ...Config.pgqrsDefaults,
      pollIntervalMs: undefined,
      whenRateLimited: undefined,
    }).toJSON(),
  );
});
