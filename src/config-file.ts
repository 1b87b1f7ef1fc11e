import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { isMap, LineCounter, parseDocument, type Document, type YAMLMap } from 'yaml';
import { text } from './check.js';
import { CONFIG_FIELDS, IGNORED_KEYS } from './config-fields.js';
import type { ConfigSource } from './config-source.js';
import { checkKeys, valueAt, type ConfigTree } from './config-tree.js';
import { InvalidOptionError } from './errors/index.js';
import { shown } from './shown.js';

const DEFAULT_FILES = ['pgqrs.yaml', 'pgqrs.yml'];

export interface ConfigFileOptions {
  file: string | undefined;
  env: NodeJS.ProcessEnv;
  cwd: string;
}

/** The file that counts: the given one, else PGQRS_CONFIG_FILE's, else a default one, else one that says nothing. */
export async function findFileSource({ file, env, cwd }: ConfigFileOptions): Promise<ConfigSource> {
  if (file !== undefined) return fileSource(resolve(cwd, text('file (option)', file)), 'file (option)');
  const variable = env['PGQRS_CONFIG_FILE'];
  if (variable) return fileSource(resolve(cwd, variable), 'PGQRS_CONFIG_FILE (environment)');
  const candidates = DEFAULT_FILES.map((name) => resolve(cwd, name));
  const found = candidates.find((path) => existsSync(path));
  return found === undefined ? sourceOf(candidates.join(' or '), {}) : fileSource(found, 'file (default)');
}

/**
 * The settings in a YAML file; all its keys are checked.
 * @param field what named the file, for messages
 */
export async function fileSource(path: string, field: string): Promise<ConfigSource> {
  const entries = parse(path, await read(path, field)).filter(([key]) => !IGNORED_KEYS.includes(key));
  const tree = Object.fromEntries(entries);
  checkKeys(`file ${path}`, tree, KEYS);
  return sourceOf(path, tree);
}

const KEYS = Object.values(CONFIG_FIELDS).map(({ key }) => key);

function sourceOf(path: string, tree: ConfigTree): ConfigSource {
  return {
    from: `file ${path}`,
    key: (name) => CONFIG_FIELDS[name].key,
    value: (name) => valueAt(tree, CONFIG_FIELDS[name].key),
  };
}

async function read(path: string, field: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown error';
    const advice = READ_ADVICE[code] ?? `it cannot be read (${code})`;
    throw new InvalidOptionError(field, 'a readable YAML file', `${shown(path)}: ${advice}`, { cause });
  }
}

const READ_ADVICE: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file; check the path, or create it with a line "dsn: postgres://…"',
  EACCES: 'this process may not read it; check the permissions of the file and its folders',
  EISDIR: 'it is a folder; name the file in it',
};

/** Never passes the parser's own messages on: they quote the file, which may hold a password. */
function parse(path: string, content: string): [string, unknown][] {
  const lines = new LineCounter();
  const document = parseDocument(content, { lineCounter: lines, prettyErrors: false });
  const [error] = document.errors;
  if (error) {
    const { line, col } = lines.linePos(error.pos[0]);
    const fault = error.code.toLowerCase().replaceAll('_', ' ');
    throw notYaml(path, `a syntax error at line ${line}, column ${col}: ${fault}`);
  }
  if (document.contents === null) return [];
  if (!isMap(document.contents)) throw notYaml(path, 'something else than "key: value" lines');
  return entries(path, document.contents, document);
}

function entries(path: string, map: YAMLMap.Parsed, document: Document): [string, unknown][] {
  try {
    return map.items.map(({ key, value }) => [String(key), value?.toJS(document)]);
  } catch {
    throw notYaml(path, 'an alias (*name) that cannot be resolved');
  }
}

function notYaml(path: string, got: string): InvalidOptionError {
  return new InvalidOptionError(`file ${path}`, 'a YAML mapping of configuration keys to values', got);
}
