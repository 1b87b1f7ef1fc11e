import { answeredWithin } from '../answered-within.js';
import type { Db, Queryable, Session } from '../db.js';
import { DatabaseError } from '../errors/index.js';

export interface Refused {
  /** Place of the row in its batch. */
  index: number;
  cause: DatabaseError;
}

type Insert<Row> = (on: Queryable, rows: readonly Row[]) => Promise<unknown>;

const WITHIN_MS = 30_000;

/**
 * Finds the first row of a batch that the server refuses, in a transaction that is thrown away.
 * @returns nothing where it cannot be told: the server is away, or refuses none of them this time
 */
export function findRefused<Row>(
  db: Db,
  rows: readonly Row[],
  insert: Insert<Row>,
): Promise<Refused | undefined> {
  return answeredWithin(db, 'finding the refused row', { withinMs: WITHIN_MS }, async (session) => {
    try {
      // Some constraints would wait for a commit that is not going to come.
      await session.script('begin; set constraints all immediate');
      const refused = await byHalves(session, rows, insert);
      await session.script('rollback');
      return refused;
    } catch (error) {
      session.discard(); // nobody else may get it in the middle of a transaction
      throw error;
    }
  }).catch(() => undefined);
}

/** Good rows stay in meanwhile, since what a constraint says of a row may depend on those before it. */
async function byHalves<Row>(
  session: Session,
  rows: readonly Row[],
  insert: Insert<Row>,
): Promise<Refused | undefined> {
  // Not prepared: a prepared statement that is missed would fail the transaction, and look like a refusal.
  const on: Queryable = { schema: session.schema, query: (text, values) => session.query(text, values) };
  let good = 0;
  for (let end = rows.length; good < end;) {
    const middle = Math.ceil((good + end) / 2);
    await session.script('savepoint part');
    try {
      await insert(on, rows.slice(good, middle));
      good = middle;
    } catch (error) {
      if (!isFaultOfTheData(error)) throw error;
      if (middle - good === 1) return { index: good, cause: error };
      end = middle;
      await session.script('rollback to savepoint part');
    }
  }
  return undefined;
}

/** Values that a type, a constraint or a trigger refuses; nothing that another try could mend. */
export function isFaultOfTheData(error: unknown): error is DatabaseError {
  return error instanceof DatabaseError && /^(?:2[123F]|3[89]|44|54|P0)/.test(error.sqlState);
}
