import { InvalidOptionError } from './errors/index.js';
import { checkKnownName } from './known-name.js';

/** Settings as a file or a variable holds them: by name, some of them in mappings of their own. */
export type ConfigTree = Readonly<Record<string, unknown>>;

/** What stands at `mapping.key`; `undefined` also for null, which `schema:` with nothing behind it is. */
export function valueAt(tree: ConfigTree, path: string): unknown {
  const value = path.split('.').reduce<unknown>((node, key) => (isTree(node) ? node[key] : undefined), tree);
  return value ?? undefined;
}

/** Refuses keys that are on none of the paths, and what is no mapping where a path goes on. */
export function checkKeys(from: string, tree: ConfigTree, paths: readonly string[]): void {
  checkLevel({ from, allPaths: paths }, `key (${from})`, tree, paths);
}

interface Place {
  from: string;
  /** From the root: a key in the wrong mapping is told where it belongs. */
  allPaths: readonly string[];
}

/** @param paths from this level on */
function checkLevel(place: Place, field: string, tree: ConfigTree, paths: readonly string[]): void {
  const known = [...new Set(paths.map((path) => path.replace(/\..*/, '')))];
  for (const [key, value] of Object.entries(tree)) {
    checkKnownName(field, key, known, place.allPaths);
    const below = paths
      .filter((path) => path.startsWith(`${key}.`))
      .map((path) => path.slice(key.length + 1));
    if (below.length === 0 || value === null || value === undefined) continue;
    if (!isTree(value)) throw notMapping(`${key} (${place.from})`, value);
    checkLevel(place, `key of ${key} (${place.from})`, value, below);
  }
}

function isTree(value: unknown): value is ConfigTree {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Does not quote the value: a DSN may have come where the mapping should be. */
function notMapping(field: string, value: unknown): InvalidOptionError {
  const got = Array.isArray(value) ? 'an array' : `a ${typeof value}`;
  return new InvalidOptionError(field, 'an object of settings', got);
}
