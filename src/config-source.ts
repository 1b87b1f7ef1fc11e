import type { Names } from './check.js';
import { CONFIG_FIELDS, REQUIRED, type ConfigFieldName, type ConfigValues } from './config-fields.js';
import { DSN_EXAMPLE } from './dsn.js';
import { MissingConfigError } from './errors/index.js';

/** Settings given in code. What is absent or `undefined` is left to the next source. */
export type ConfigOptions = { [Name in ConfigFieldName]?: ConfigValues[Name] | undefined };

/** A place that settings come from. */
export interface ConfigSource {
  /** As it stands in messages: `environment`. */
  readonly from: string;
  /** What the source calls a field: `PGQRS_MAX_CONNECTIONS`. */
  readonly key: (name: ConfigFieldName) => string;
  /** What the source says, not yet checked; `undefined` when it says nothing. */
  readonly value: (name: ConfigFieldName) => unknown;
}

/** The field's value from the first source that has one, checked; else its default. */
export function resolveField<Name extends ConfigFieldName>(
  name: Name,
  sources: readonly ConfigSource[],
): ConfigValues[Name] {
  const field = CONFIG_FIELDS[name];
  for (const source of sources) {
    const value = source.value(name);
    if (value !== undefined) return field.check(label(source, name), value);
  }
  if (field.default === REQUIRED) throw missing(name, sources);
  return field.default;
}

const allNames = Object.keys(CONFIG_FIELDS);
const named = (names: readonly string[]) => Object.fromEntries(names.map((name) => [name, true] as const));

export const CONFIG_NAMES = named(allNames) as Names<ConfigOptions>;
/** Those beside the DSN. */
export const SETTING_NAMES = named(allNames.filter((name) => name !== 'dsn')) as Names<
  Omit<ConfigOptions, 'dsn'>
>;

export function valuesSource(values: Readonly<ConfigOptions>): ConfigSource {
  return { from: 'option', key: (name) => name, value: (name) => values[name] };
}

function label(source: ConfigSource, name: ConfigFieldName): string {
  return `${source.key(name)} (${source.from})`;
}

function missing(name: ConfigFieldName, sources: readonly ConfigSource[]): MissingConfigError {
  const [only, ...others] = sources;
  return new MissingConfigError(
    only && others.length === 0 ? only.key(name) : name,
    `put a URL such as ${DSN_EXAMPLE} into ${sources.map((source) => label(source, name)).join(' or ')}`,
  );
}
