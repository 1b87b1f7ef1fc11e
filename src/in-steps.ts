import type { Db, Queryable } from './db.js';
import { oneTransaction } from './on-client.js';
import { BEGINNING, type Step, type Walk } from './sql/walk.js';

/** Index entries that one statement looks at: its locks last some tenths of a second. */
export const STEP_ENTRIES = 10_000;
/** Longest wait for the answer to a statement. */
const ANSWER_MS = 30_000;

/** One statement on a client of its own, which is cut when no answer comes. */
export function answered<T>(db: Db, what: string, work: (on: Queryable) => Promise<T>): Promise<T> {
  return oneTransaction(db, { what, ms: ANSWER_MS }, work);
}

/** Walks to the end, each statement in a transaction of its own. @returns how many rows they have changed */
export async function inSteps(
  db: Db,
  what: string,
  step: (on: Queryable, walk: Walk) => Promise<Step>,
): Promise<number> {
  let changed = 0;
  for (let walk: Walk | undefined = BEGINNING; walk;) {
    const from: Walk = walk;
    const { count, next }: Step = await answered(db, what, (on) => step(on, from));
    changed += count;
    walk = next;
  }
  return changed;
}

/** The same for ids that are named, in lists of bounded length. */
export async function inLists<T>(
  db: Db,
  what: string,
  items: readonly T[],
  step: (on: Queryable, some: readonly T[]) => Promise<number>,
): Promise<number> {
  let changed = 0;
  for (let from = 0; from < items.length; from += STEP_ENTRIES)
    changed += await answered(db, what, (on) => step(on, items.slice(from, from + STEP_ENTRIES)));
  return changed;
}
