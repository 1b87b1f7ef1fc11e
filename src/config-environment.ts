import * as check from './check.js';
import { CONFIG_FIELDS } from './config-fields.js';
import type { ConfigSource } from './config-source.js';
import { checkKeys, valueAt, type ConfigTree } from './config-tree.js';
import { InvalidOptionError } from './errors/index.js';

/**
 * The settings in variables. Those that hold JSON are parsed and their keys checked at once.
 * An empty variable counts as one that is not set.
 */
export function environmentSource(variables: NodeJS.ProcessEnv): ConfigSource {
  const env = check.read('env', 'an object of variables', () => ({ ...variables }));
  const json = jsonVariables(env);
  checkKeys(FROM, json, JSON_PATHS);
  return {
    from: FROM,
    key: (name) => CONFIG_FIELDS[name].env,
    value: (name) => {
      const { env: path, parse } = CONFIG_FIELDS[name];
      if (JSON_PATHS.includes(path)) return valueAt(json, path);
      return env[path] ? parse(check.text(`${path} (${FROM})`, env[path])) : undefined;
    },
  };
}

const FROM = 'environment';
const JSON_PATHS = Object.values(CONFIG_FIELDS)
  .map(({ env }) => env)
  .filter((path) => path.includes('.'));

function jsonVariables(env: NodeJS.ProcessEnv): ConfigTree {
  const names = new Set(JSON_PATHS.map((path) => path.slice(0, path.indexOf('.'))));
  return Object.fromEntries(
    [...names].map((name) => [
      name,
      env[name] ? parseJson(name, check.text(`${name} (${FROM})`, env[name])) : undefined,
    ]),
  );
}

/** Never passes the parser's own message on: it quotes the text, which may be a DSN in the wrong variable. */
function parseJson(variable: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new InvalidOptionError(
      `${variable} (${FROM})`,
      'a JSON object of settings',
      'text that is not JSON',
    );
  }
}
