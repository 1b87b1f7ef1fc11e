import { resolve } from 'node:path';
import { inspect, type InspectOptions } from 'node:util';
import * as check from './check.js';
import { environmentSource } from './config-environment.js';
import type { ConfigFieldName, ConfigValues } from './config-fields.js';
import { fileSource, findFileSource } from './config-file.js';
import { PGQRS_DEFAULTS } from './config-pgqrs.js';
import { CONFIG_NAMES, resolveField, SETTING_NAMES, valuesSource } from './config-source.js';
import type { ConfigOptions, ConfigSource } from './config-source.js';
import { redactDsn } from './dsn.js';

export type { ConfigOptions, ConfigValues };

/** What {@link Config.load} takes: settings that win over every other source, and where to look for the others. */
export interface ConfigLoadOptions extends ConfigOptions {
  /** YAML file, relative to `cwd`. @default the file that PGQRS_CONFIG_FILE names, else pgqrs.yaml, else pgqrs.yml */
  file?: string | undefined;
  /** Environment variables. @default process.env */
  env?: NodeJS.ProcessEnv | undefined;
  /** Folder that relative paths start from. @default process.cwd() */
  cwd?: string | undefined;
}

export const LOAD_NAMES: check.Names<ConfigLoadOptions> = {
  ...CONFIG_NAMES,
  file: true,
  env: true,
  cwd: true,
};

/**
 * Where the database is and how to use it: immutable, and checked wherever its settings came from.
 * {@link ConfigValues} describes each setting with its unit, range, default, environment variable and YAML key.
 *
 * A file is YAML with pgqrs' keys, so that both can share one: flat, but for the mapping `validation_config`, none of
 * whose keys we demand. `sqlite` and `s3`, which only pgqrs reads, are ignored; any other unknown key is an error.
 * `${VARIABLES}` are not expanded. `PGQRS_VALIDATION_CONFIG` holds that same mapping as a JSON object.
 *
 * Shown in any way (string, JSON, `console.log`), a Config hides the password; only `dsn` has it.
 *
 * Every factory throws {@link InvalidOptionError} with the field, where it was set, its rule and the refused value,
 * and {@link MissingConfigError} if no source has a DSN.
 *
 * @example
 * const config = Config.fromDsn('postgresql://localhost/mydb', { maxConnections: 4 });
 * const other = await Config.load({ schema: 'jobs' }); // the rest from environment, file and defaults
 */
export class Config implements Readonly<ConfigValues> {
  /**
   * pgqrs' own values where ours differ, for one who wants its behaviour: payloads of at most 1 MiB, strings of 1,024
   * bytes, depth 5, no `__proto__` and `constructor`, 1,000 messages per second with bursts of 50 and rejection of what
   * is above, a look into the queue every 250 ms. Frozen; spread it to change some of it.
   *
   * @example
   * Config.fromDsn(dsn, Config.pgqrsDefaults);
   * Config.fromDsn(dsn, { ...Config.pgqrsDefaults, maxDepth: 8, maxEnqueuePerSecond: undefined }); // no rate limit
   */
  static readonly pgqrsDefaults = PGQRS_DEFAULTS;

  readonly schema: string;
  readonly maxConnections: number;
  readonly connectionTimeoutSeconds: number;
  readonly defaultLockTimeSeconds: number;
  readonly defaultMaxBatchSize: number;
  readonly maxReadCount: number;
  readonly heartbeatIntervalSeconds: number;
  readonly pollIntervalMs: number;
  readonly maxPayloadBytes: number;
  readonly maxStringBytes: number | undefined;
  readonly maxDepth: number;
  readonly readableByPgqrs: boolean;
  readonly forbiddenKeys: readonly string[];
  readonly requiredKeys: readonly string[];
  readonly maxEnqueuePerSecond: number | undefined;
  readonly maxEnqueueBurst: number;
  readonly whenRateLimited: 'wait' | 'reject';
  /** Private, so that nothing that lists properties comes across the password. */
  readonly #dsn: string;

  private constructor(...sources: readonly ConfigSource[]) {
    const field = <Name extends ConfigFieldName>(name: Name) => resolveField(name, sources);
    this.#dsn = field('dsn');
    this.schema = field('schema');
    this.maxConnections = field('maxConnections');
    this.connectionTimeoutSeconds = field('connectionTimeoutSeconds');
    this.defaultLockTimeSeconds = field('defaultLockTimeSeconds');
    this.defaultMaxBatchSize = field('defaultMaxBatchSize');
    this.maxReadCount = field('maxReadCount');
    this.heartbeatIntervalSeconds = field('heartbeatIntervalSeconds');
    this.pollIntervalMs = field('pollIntervalMs');
    this.maxPayloadBytes = field('maxPayloadBytes');
    this.maxStringBytes = field('maxStringBytes');
    this.maxDepth = field('maxDepth');
    this.readableByPgqrs = field('readableByPgqrs');
    this.forbiddenKeys = field('forbiddenKeys');
    this.requiredKeys = field('requiredKeys');
    this.maxEnqueuePerSecond = field('maxEnqueuePerSecond');
    this.maxEnqueueBurst = field('maxEnqueueBurst');
    this.whenRateLimited = field('whenRateLimited');
    Object.freeze(this);
  }

  /** The given settings and defaults for the rest. Reads neither the environment nor a file. */
  static fromDsn(dsn: string, overrides: Omit<ConfigOptions, 'dsn'> = {}): Config {
    const settings = check.options('Config.fromDsn()', overrides, SETTING_NAMES);
    return new Config(valuesSource({ ...settings, dsn }));
  }

  /** A DSN, the schema of the queue tables, and defaults for the rest. */
  static fromDsnWithSchema(dsn: string, schema: string): Config {
    return Config.fromDsn(dsn, { schema });
  }

  /**
   * The `PGQRS_*` variables and defaults for the rest; an empty variable counts as not set.
   * A number that is none, or JSON that is none, is an error (pgqrs silently takes the default).
   */
  static fromEnv(env: NodeJS.ProcessEnv = process.env): Config {
    return new Config(environmentSource(check.kind('env', env, 'an object of variables', isEnvironment)));
  }

  /**
   * The settings in a YAML file and defaults for the rest. Also throws {@link InvalidOptionError}
   * if the file cannot be read (with the reason as `cause`) or is not YAML (with line and column).
   * @param path relative to the working directory
   */
  static async fromFile(path: string): Promise<Config> {
    return new Config(await fileSource(resolve(check.text('path', path)), 'path'));
  }

  /**
   * Each setting by itself from the first source that has it:
   * 1. the options of this call,
   * 2. the environment,
   * 3. the file: `file`, else the one that `PGQRS_CONFIG_FILE` names, else `pgqrs.yaml`, else `pgqrs.yml` in `cwd`,
   * 4. the defaults.
   *
   * (pgqrs takes all settings from the first source that it finds.) That holds within `validation_config` too.
   * A value that is overridden is not checked.
   * A default file need not exist; a named one must.
   *
   * @example
   * // PGQRS_MAX_CONNECTIONS=8, and pgqrs.yaml has the DSN
   * const config = await Config.load({ schema: 'jobs' });
   */
  static async load(options: ConfigLoadOptions = {}): Promise<Config> {
    const given = check.options('Config.load()', options, LOAD_NAMES);
    const { file, env = process.env, cwd = process.cwd(), ...explicit } = given;
    check.kind('env (option)', env, 'an object of variables', isEnvironment);
    check.text('cwd (option)', cwd);
    return new Config(
      valuesSource(explicit),
      environmentSource(env),
      await findFileSource({ file, env, cwd }),
    );
  }

  /** @internal Refuses what is no Config. */
  static of(value: unknown): Config {
    return check.kind('config', value, 'a Config', (it): it is Config => it instanceof Config);
  }

  /** PostgreSQL URL, with its password: do not print it. */
  get dsn(): string {
    return this.#dsn;
  }

  /** The DSN with `***` for its password. */
  get redactedDsn(): string {
    return redactDsn(this.#dsn);
  }

  /** A copy with changes, checked like the original. `undefined` changes nothing, so it lifts no limit either. */
  with(overrides: ConfigOptions): Config {
    const changes = check.options('config.with()', overrides, CONFIG_NAMES);
    return new Config(valuesSource(changes), valuesSource(this));
  }

  /** All settings, without the password. */
  toJSON(): ConfigValues {
    return Object.assign({ dsn: this.redactedDsn }, this);
  }

  toString(): string {
    return `Config ${JSON.stringify(this)}`;
  }

  [inspect.custom](_depth: number, options: InspectOptions): string {
    return `Config ${inspect(this.toJSON(), options)}`;
  }
}

function isEnvironment(value: unknown): value is NodeJS.ProcessEnv {
  return check.isObject(value);
}
