import { InvalidOptionError } from './errors/index.js';
import { shown } from './shown.js';

/**
 * Refuses a name that is not among the known ones, and says which of them was probably meant.
 * @param elsewhere names that may have been meant too, but do not count where this one stands
 */
export function checkKnownName(
  field: string,
  name: string,
  known: readonly string[],
  elsewhere: readonly string[] = [],
): void {
  if (known.includes(name)) return;
  // Who forgot a space or a quote may have a password where the name should be.
  const got = /^[\w.-]+$/.test(name) ? shown(name) : 'something else';
  throw new InvalidOptionError(
    field,
    `a known name (nearest: ${nearest(name, [...known, ...elsewhere])})`,
    got,
  );
}

/** The candidate that takes the fewest edits for its length, whatever its case and its separators. */
function nearest(name: string, candidates: readonly string[]): string {
  const [first] = candidates
    .map((candidate) => ({ candidate, distance: distance(bare(name), bare(ending(candidate))) }))
    .sort((a, b) => a.distance - b.distance);
  return first?.candidate ?? 'none';
}

/** The name in a dotted path: it is what people write in the wrong place. */
function ending(path: string): string {
  return path.slice(path.lastIndexOf('.') + 1);
}

function bare(name: string): string {
  return name.toLowerCase().replace(/[_.-]/g, '').slice(0, 64);
}

/** Levenshtein distance, one row of the matrix at a time, as a share of the longer name. */
function distance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (const [line, letter] of Array.from(from).entries()) {
    const next = [line + 1];
    for (let column = 0; column < to.length; column++) {
      const replaced = at(row, column) + (letter === to[column] ? 0 : 1);
      next.push(Math.min(replaced, at(row, column + 1) + 1, at(next, column) + 1));
    }
    row = next;
  }
  return at(row, to.length) / Math.max(from.length, to.length, 1);
}

function at(row: readonly number[], column: number): number {
  return row[column] ?? Infinity;
}
