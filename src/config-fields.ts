import { boolean, integer, number, oneOf, schemaName, strings, type Range } from './check.js';
import { checkDsn } from './dsn.js';

/**
 * The settings of a {@link Config}. Each description ends with the variable and the key of the YAML file that set it.
 * `PGQRS_VALIDATION_CONFIG.x` is the member `x` of the JSON object in that variable, `validation_config.x` the key `x`
 * in that nested mapping.
 */
export interface ConfigValues {
  /**
   * PostgreSQL URL, `postgres://user:password@host:5432/database?sslmode=verify-full`. Required.
   * Several hosts, `a:5432,b:5432`, are for fail-over: the one is used that takes writes, or what
   * `target_session_attrs` asks for; `connect_timeout` is the longest wait for one of them, in seconds (2 by default).
   * Its other parameters go to the driver as they are. `PGQRS_DSN`, `dsn`.
   */
  dsn: string;
  /** Schema of the queue tables: an SQL name of at most 63 bytes. `PGQRS_SCHEMA`, `schema`. @default 'public' */
  schema: string;
  /** Most connections in the pool, 1 to 10,000. `PGQRS_MAX_CONNECTIONS`, `max_connections`. @default 16 */
  maxConnections: number;
  /**
   * Longest wait for a connection, in seconds, 1 to 3,600.
   * `PGQRS_CONNECTION_TIMEOUT`, `connection_timeout_seconds`. @default 30
   */
  connectionTimeoutSeconds: number;
  /**
   * How long a dequeued message is leased, in seconds, 1 to 2,592,000 (30 days). pgqrs documents 5,
   * but never reads the setting: its dequeue leases for 30.
   * `PGQRS_DEFAULT_LOCK_TIME`, `default_lock_time_seconds`. @default 30
   */
  defaultLockTimeSeconds: number;
  /**
   * Most messages in one batch of `consumer.runBatch`, 1 to 100,000.
   * `PGQRS_DEFAULT_BATCH_SIZE`, `default_max_batch_size`. @default 100
   */
  defaultMaxBatchSize: number;
  /**
   * Deliveries of a message before it counts as dead, 1 to 2,147,483,647. pgqrs' consumers
   * go by their own setting: give all clients of a queue the same one.
   * `PGQRS_MAX_READ_CT`, `max_read_ct`. @default 5
   */
  maxReadCount: number;
  /**
   * Time between two heartbeats of a worker, in seconds, 1 to 3,600.
   * `PGQRS_HEARTBEAT_INTERVAL`, `heartbeat_interval`. @default 2
   */
  heartbeatIntervalSeconds: number;
  /**
   * Time between two looks into a queue when no notification comes, in ms, 1 to 3,600,000. pgqrs has 250;
   * ours only catches what NOTIFY missed. `PGQRS_POLL_INTERVAL_MS`, `poll_interval_ms`. @default 1000
   */
  pollIntervalMs: number;
  /**
   * Longest payload, in bytes of JSON, 1 to 268,435,455 (what jsonb can hold).
   * `PGQRS_VALIDATION_CONFIG.max_payload_size_bytes`, `validation_config.max_payload_size_bytes`. @default 1048576
   */
  maxPayloadBytes: number;
  /**
   * Longest string and longest key in a payload, in bytes of UTF-8, 1 to 268,435,455. pgqrs has 1024.
   * `PGQRS_VALIDATION_CONFIG.max_string_length`, `validation_config.max_string_length`. @default no limit
   */
  maxStringBytes: number | undefined;
  /**
   * Deepest nesting of a payload, 0 to 10,000: the payload itself is at depth 0, what it holds at 1. pgqrs has 5.
   * `PGQRS_VALIDATION_CONFIG.max_object_depth`, `validation_config.max_object_depth`. @default 127
   */
  maxDepth: number;
  /**
   * Whether payloads are refused that a client of pgqrs cannot read, whose whole batch would stay leased for one of them:
   * more than 127 arrays and objects in one another, and Number.MAX_VALUE. `false` is for queues that pgqrs never
   * reads. Not a setting of pgqrs. `PGQRS_READABLE_BY_PGQRS`, `readable_by_pgqrs`. @default true
   */
  readableByPgqrs: boolean;
  /**
   * Keys that no object in a payload may have: a list of strings, which may be empty.
   * `PGQRS_VALIDATION_CONFIG.forbidden_keys`, `validation_config.forbidden_keys`.
   * @default ['__proto__', 'constructor']
   */
  forbiddenKeys: readonly string[];
  /**
   * Keys that a payload must have, which must then be an object: a list of strings.
   * `PGQRS_VALIDATION_CONFIG.required_keys`, `validation_config.required_keys`. @default []
   */
  requiredKeys: readonly string[];
  /**
   * Messages that one producer enqueues per second, on average: any number above 0; 0.5 is one every two seconds.
   * pgqrs has 1000. `PGQRS_VALIDATION_CONFIG.max_enqueue_per_second`, `validation_config.max_enqueue_per_second`.
   * @default no limit
   */
  maxEnqueuePerSecond: number | undefined;
  /**
   * Messages that one producer enqueues at once after a pause, a whole number of at least 1.
   * Only counts together with `maxEnqueuePerSecond`.
   * `PGQRS_VALIDATION_CONFIG.max_enqueue_burst`, `validation_config.max_enqueue_burst`. @default 50
   */
  maxEnqueueBurst: number;
  /**
   * What becomes of an enqueue above the rate: `'wait'` until its turn, or `'reject'`, as pgqrs does.
   * Not a setting of pgqrs. `PGQRS_WHEN_RATE_LIMITED`, `when_rate_limited`. @default 'wait'
   */
  whenRateLimited: 'wait' | 'reject';
}

export type ConfigFieldName = keyof ConfigValues;

/** Stands where a default would, in a field that every configuration has to set. */
export const REQUIRED = Symbol('required');

export interface ConfigField<T> {
  /** Its environment variable; with `.name` behind it where the variable holds a JSON object of several settings. */
  readonly env: string;
  /** Its key in a YAML file; `mapping.key` where it is in a nested one. */
  readonly key: string;
  /** `undefined` is a value like any other: no limit. */
  readonly default: T | typeof REQUIRED;
  /** What the text of a variable stands for; one that stands for nothing is left for `check` to refuse. */
  readonly parse: (text: string) => unknown;
  /** @throws {@link InvalidOptionError} that calls the field by the given name */
  readonly check: (name: string, value: unknown) => T;
}

/** Every setting, once. A test holds the table against the descriptions above. */
// prettier-ignore
export const CONFIG_FIELDS: { readonly [Name in ConfigFieldName]: ConfigField<ConfigValues[Name]> } = {
  //                              environment variable        key in a YAML file            default    rule or range
  dsn:                      field('PGQRS_DSN',                'dsn',                        REQUIRED,  checkDsn),
  schema:                   field('PGQRS_SCHEMA',             'schema',                     'public',  schemaName),
  maxConnections:           whole('PGQRS_MAX_CONNECTIONS',    'max_connections',            16,        { min: 1, max: 10_000 }),
  connectionTimeoutSeconds: whole('PGQRS_CONNECTION_TIMEOUT', 'connection_timeout_seconds', 30,        { min: 1, max: 3_600 }),
  defaultLockTimeSeconds:   whole('PGQRS_DEFAULT_LOCK_TIME',  'default_lock_time_seconds',  30,        { min: 1, max: 2_592_000 }),
  defaultMaxBatchSize:      whole('PGQRS_DEFAULT_BATCH_SIZE', 'default_max_batch_size',     100,       { min: 1, max: 100_000 }),
  maxReadCount:             whole('PGQRS_MAX_READ_CT',        'max_read_ct',                5,         { min: 1, max: 2_147_483_647 }),
  heartbeatIntervalSeconds: whole('PGQRS_HEARTBEAT_INTERVAL', 'heartbeat_interval',         2,         { min: 1, max: 3_600 }),
  pollIntervalMs:           whole('PGQRS_POLL_INTERVAL_MS',   'poll_interval_ms',           1_000,     { min: 1, max: 3_600_000 }),
  maxPayloadBytes:          whole(...validation('max_payload_size_bytes'),                  1_048_576, { min: 1, max: 268_435_455 }),
  maxStringBytes:           whole(...validation('max_string_length'),                       undefined, { min: 1, max: 268_435_455 }),
  maxDepth:                 whole(...validation('max_object_depth'),                        127,       { min: 0, max: 10_000 }),
  readableByPgqrs:          flag('PGQRS_READABLE_BY_PGQRS',   'readable_by_pgqrs',          true),
  forbiddenKeys:            list( ...validation('forbidden_keys'),                          ['__proto__', 'constructor']),
  requiredKeys:             list( ...validation('required_keys'),                           []),
  maxEnqueuePerSecond:      field(...validation('max_enqueue_per_second'),                  undefined, positive),
  maxEnqueueBurst:          whole(...validation('max_enqueue_burst'),                       50,        { min: 1 }),
  whenRateLimited:          field('PGQRS_WHEN_RATE_LIMITED',  'when_rate_limited',          'wait',    waitOrReject),
};

/** Keys that pgqrs reads from a file and pg-sluice does not: files are shared with it, so they pass and do nothing. */
export const IGNORED_KEYS: readonly string[] = ['sqlite', 's3'];

function field<T>(
  env: string,
  key: string,
  preset: ConfigField<T>['default'],
  check: ConfigField<T>['check'],
): ConfigField<T> {
  return { env, key, default: preset, parse: (value) => value, check };
}

function whole<Preset extends number | undefined>(
  env: string,
  key: string,
  preset: Preset,
  range: Range,
): ConfigField<number | Preset> {
  return {
    env,
    key,
    default: preset,
    parse: (value) => (/^\s*[+-]?\d+\s*$/.test(value) ? Number(value) : value),
    check: (name, value) => integer(name, value, range),
  };
}

function flag(env: string, key: string, preset: boolean): ConfigField<boolean> {
  const parse = (text: string) => (text === 'true' ? true : text === 'false' ? false : text);
  return { env, key, default: preset, parse, check: boolean };
}

function list(env: string, key: string, preset: readonly string[]): ConfigField<readonly string[]> {
  return field(env, key, Object.freeze(preset), strings);
}

/** Where pgqrs has its rules for payloads: one variable with JSON, one mapping in a file, the same names in both. */
function validation(key: string): [env: string, key: string] {
  return [`PGQRS_VALIDATION_CONFIG.${key}`, `validation_config.${key}`];
}

function positive(name: string, value: unknown): number {
  return number(name, value, { above: 0 });
}

function waitOrReject(name: string, value: unknown): ConfigValues['whenRateLimited'] {
  return oneOf(name, value, ['wait', 'reject']);
}
