import type { Db, Queryable, Session } from '../db.js';
import { DatabaseError } from '../errors/index.js';
import { onClient } from '../on-client.js';
import { RAISED } from '../sql/statement.js';

export interface Refused {
  /** Place of the row in its batch. */
  index: number;
  cause: DatabaseError;
}

/** Inserts rows `from` to `to`, without the last; where COPY does, its error may name the line. */
type Insert = (on: Queryable, from: number, to: number) => Promise<unknown>;

const WITHIN_MS = 30_000;

export interface Search {
  insert: Insert;
  /** Whether to go on after the first one. */
  all: boolean;
  /** From then on what has been found is enough. */
  enoughMs?: number;
}

/**
 * Finds rows of a batch that the server refuses, in a transaction that is thrown away.
 * @param all whether to go on after the first one
 * @returns nothing where it cannot be told: the server is away, or refuses none of them this time
 */
export function findRefused(db: Db, count: number, insert: Insert, all: boolean): Promise<Refused[]> {
  return onClient(db, { what: 'finding refused rows', ms: WITHIN_MS }, (session) =>
    lookThrough(session, count, { insert, all }),
  ).catch(() => []);
}

/** As `findRefused`, on a client that somebody has. */
export async function lookThrough(session: Session, count: number, search: Search): Promise<Refused[]> {
  const refused: Refused[] = [];
  try {
    // Some constraints would wait for a commit that is not going to come.
    await session.begin('set constraints all immediate');
    await inParts(session, count, search, refused);
    await session.script('rollback');
  } catch (error) {
    if (refused.length === 0) throw error;
    session.discard(); // what was found is found, whatever became of the search
  }
  return refused;
}

/**
 * A part that is refused is parted where the server says which row it is, else in the middle. Good rows stay in meanwhile,
 * since what a constraint says of a row may depend on those before it.
 */
async function inParts(
  session: Session,
  count: number,
  { insert, all, enoughMs = Infinity }: Search,
  refused: Refused[],
): Promise<void> {
  const enough = performance.now() + enoughMs;
  // Not prepared: a prepared statement that is missed would fail the transaction, and look like a refusal.
  const on: Queryable = { schema: session.schema, query: (text, values) => session.query(text, values) };
  /** Parts still to be looked at, the first of them last. */
  const parts: [from: number, to: number][] = [[0, count]];
  /** Rows at once. What comes behind a bad row is sent in vain, so no more than a few times what lies between two. */
  let most = count;
  await session.script('savepoint part');
  for (let part = parts.pop(); part; part = parts.pop()) {
    const [from, end] = part;
    if (from === end) continue;
    const to = Math.min(end, from + most);
    if (to < end) parts.push([to, end]);
    try {
      await insert(on, from, to);
      if (to - from === most) most *= GROWTH;
      await session.script('release savepoint part; savepoint part');
    } catch (error) {
      if (!isFaultOfTheData(error)) throw error;
      await session.script('rollback to savepoint part');
      const bad = refusedRow(error, from, to);
      if (bad === undefined) {
        const middle = Math.ceil((from + to) / 2);
        parts.push([middle, to], [from, middle]);
        continue;
      }
      refused.push({ index: bad, cause: error });
      if (!all || performance.now() > enough) break;
      most = Math.max(FEWEST, GROWTH * (bad - from));
      parts.push([bad + 1, to], [from, bad]);
    }
  }
}

const GROWTH = 4;
const FEWEST = 16;

function refusedRow({ line }: DatabaseError, from: number, to: number): number | undefined {
  if (to - from === 1) return from;
  return line === undefined || line > to - from ? undefined : from + line - 1;
}

/** Values that a type, a constraint or a trigger refuses or leaves out; nothing that another try could mend. */
export function isFaultOfTheData(error: unknown): error is DatabaseError {
  if (!(error instanceof DatabaseError)) return false;
  return error.sqlState === RAISED.rowsMissing || /^(?:2[123F]|3[89]|44|54|P0)/.test(error.sqlState);
}
