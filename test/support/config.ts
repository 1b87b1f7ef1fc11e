import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { stringify } from 'yaml';
import { CONFIG_FIELDS, type ConfigFieldName } from '../../src/config-fields.js';
import type { ConfigOptions } from '../../src/config.js';
import { InvalidOptionError, MissingConfigError, type SluiceError } from '../../src/errors/index.js';

export const DSN = 'postgres://user:S3cr3t@host/db';
export const EXAMPLE = 'postgres://user:password@host:5432/database';

/** Three values for every field but the DSN, of which the first is not its default and neighbours differ. */
export const SAMPLES = {
  schema: ['s1', 's2', 's3'],
  maxConnections: [1, 2, 3],
  connectionTimeoutSeconds: [1, 2, 3],
  defaultLockTimeSeconds: [1, 2, 3],
  defaultMaxBatchSize: [1, 2, 3],
  maxReadCount: [1, 2, 3],
  heartbeatIntervalSeconds: [1, 2, 3],
  pollIntervalMs: [1, 2, 3],
  maxPayloadBytes: [1, 2, 3],
  maxStringBytes: [1, 2, 268_435_455],
  maxDepth: [0, 2, 10_000],
  readableByPgqrs: [false, true, false],
  forbiddenKeys: [[], ['a'], ['', 'b', 'ä']],
  requiredKeys: [['id'], ['id', 'at'], ['__proto__']],
  maxEnqueuePerSecond: [0.5, 2, 1e9],
  maxEnqueueBurst: [1, 2, 1e9],
  whenRateLimited: ['reject', 'wait', 'reject'],
} satisfies { [Name in Exclude<ConfigFieldName, 'dsn'>]: readonly unknown[] };

export const NAMES = Object.keys(SAMPLES) as (keyof typeof SAMPLES)[];

/** The n-th sample of every field. */
export function samples(n: 0 | 1 | 2): Record<string, unknown> {
  return Object.fromEntries(NAMES.map((name) => [name, SAMPLES[name][n]]));
}

/** Variables that say this. */
export function envOf(settings: Record<string, unknown>): NodeJS.ProcessEnv {
  const variables = Object.entries(tree('env', settings));
  return Object.fromEntries(variables.map(([name, value]) => [name, asText(value)]));
}

function asText(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** A file's content that says this. */
export function yamlOf(settings: Record<string, unknown>): string {
  return stringify(tree('key', settings));
}

function tree(names: 'env' | 'key', settings: Record<string, unknown>): Record<string, unknown> {
  const root: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(settings)) {
    const [first = '', inner] = CONFIG_FIELDS[name as ConfigFieldName][names].split('.');
    root[first] = inner === undefined ? value : { ...(root[first] as object), [inner]: value };
  }
  return root;
}

const root = await mkdtemp(join(tmpdir(), 'sluice-config-'));
afterAll(() => rm(root, { recursive: true }));

/** A new folder with these files in it. */
export async function folder(files: Record<string, string> = {}): Promise<string> {
  const path = await mkdtemp(join(root, 'cwd-'));
  for (const [name, content] of Object.entries(files)) await writeFile(join(path, name), content);
  return path;
}

/** A new file with this content. */
export async function yaml(content: string): Promise<string> {
  return join(await folder({ 'x.yaml': content }), 'x.yaml');
}

export async function errorOf(attempt: () => unknown): Promise<SluiceError> {
  try {
    await attempt();
  } catch (error) {
    if (error instanceof InvalidOptionError || error instanceof MissingConfigError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

export const messageOf = async (attempt: () => unknown) => (await errorOf(attempt)).message;

/** What only plain JavaScript lets through. */
export const untyped = (options: object) => options as ConfigOptions;
