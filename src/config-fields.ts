import { integer, schemaName, type Range } from './check.js';
import { checkDsn } from './dsn.js';

/** The settings of a {@link Config}. Each line ends with the variable and the key of the YAML file that set it. */
export interface ConfigValues {
  /**
   * PostgreSQL URL, `postgres://user:password@host:5432/database?sslmode=verify-full`. Required.
   * Its parameters go to the driver as they are. `PGQRS_DSN`, `dsn`.
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
   * Most messages that one dequeue takes, 1 to 100,000.
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
   * `PGQRS_HEARTBEAT_INTERVAL`, `heartbeat_interval`. @default 5
   */
  heartbeatIntervalSeconds: number;
  /**
   * Time between two looks into a queue when no notification comes, in ms, 1 to 3,600,000. pgqrs has 250;
   * ours only catches what NOTIFY missed. `PGQRS_POLL_INTERVAL_MS`, `poll_interval_ms`. @default 1000
   */
  pollIntervalMs: number;
  /**
   * Longest payload, in bytes of JSON, 1 to 268,435,455 (what jsonb can hold). Not a setting of pgqrs.
   * `PGQRS_MAX_PAYLOAD_BYTES`, `max_payload_bytes`. @default 1048576
   */
  maxPayloadBytes: number;
}

export type ConfigFieldName = keyof ConfigValues;

export interface ConfigField<T> {
  /** Its environment variable. */
  readonly env: string;
  /** Its key in a YAML file. */
  readonly key: string;
  /** Undefined where there is none: the field is required. */
  readonly default: T | undefined;
  /** What a text from the environment stands for; one that stands for nothing is left for `check` to refuse. */
  readonly parse: (text: string) => unknown;
  /** @throws {@link InvalidOptionError} that calls the field by the given name */
  readonly check: (name: string, value: unknown) => T;
}

/** Every setting, once. A test holds the table against the descriptions above. */
// prettier-ignore
export const CONFIG_FIELDS: { readonly [Name in ConfigFieldName]: ConfigField<ConfigValues[Name]> } = {
  //                              environment variable        key in a YAML file            default    rule or range
  dsn:                      text('PGQRS_DSN',                 'dsn',                        undefined, checkDsn),
  schema:                   text('PGQRS_SCHEMA',              'schema',                     'public',  schemaName),
  maxConnections:           whole('PGQRS_MAX_CONNECTIONS',    'max_connections',            16,        { min: 1, max: 10_000 }),
  connectionTimeoutSeconds: whole('PGQRS_CONNECTION_TIMEOUT', 'connection_timeout_seconds', 30,        { min: 1, max: 3_600 }),
  defaultLockTimeSeconds:   whole('PGQRS_DEFAULT_LOCK_TIME',  'default_lock_time_seconds',  30,        { min: 1, max: 2_592_000 }),
  defaultMaxBatchSize:      whole('PGQRS_DEFAULT_BATCH_SIZE', 'default_max_batch_size',     100,       { min: 1, max: 100_000 }),
  maxReadCount:             whole('PGQRS_MAX_READ_CT',        'max_read_ct',                5,         { min: 1, max: 2_147_483_647 }),
  heartbeatIntervalSeconds: whole('PGQRS_HEARTBEAT_INTERVAL', 'heartbeat_interval',         5,         { min: 1, max: 3_600 }),
  pollIntervalMs:           whole('PGQRS_POLL_INTERVAL_MS',   'poll_interval_ms',           1_000,     { min: 1, max: 3_600_000 }),
  maxPayloadBytes:          whole('PGQRS_MAX_PAYLOAD_BYTES',  'max_payload_bytes',          1_048_576, { min: 1, max: 268_435_455 }),
};

/** Keys that pgqrs reads from a file and pg-sluice does not: files are shared with it, so they pass and do nothing. */
export const IGNORED_KEYS: readonly string[] = ['validation_config', 'sqlite', 's3'];

function text(
  env: string,
  key: string,
  preset: string | undefined,
  check: ConfigField<string>['check'],
): ConfigField<string> {
  return { env, key, default: preset, parse: (value) => value, check };
}

function whole(env: string, key: string, preset: number, range: Range): ConfigField<number> {
  return {
    env,
    key,
    default: preset,
    parse: (value) => (/^\s*[+-]?\d+\s*$/.test(value) ? Number(value) : value),
    check: (name, value) => integer(name, value, range),
  };
}
