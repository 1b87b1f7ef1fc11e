import { TimeoutError } from './base.js';
import { ConnectionError, DatabaseError } from './database.js';
import { leavesInDoubt } from './sqlstate.js';

/** Whether an error is the server's answer, so that the statement certainly did nothing. */
export function isAnswer(error: unknown): boolean {
  if (error instanceof ConnectionError || error instanceof TimeoutError) return false;
  return !(error instanceof DatabaseError && leavesInDoubt(error.sqlState));
}

/** Whether the server refuses a row: its values, a constraint, or a trigger that raises. Another row may pass. */
export function isRefusal(error: unknown): error is DatabaseError {
  return error instanceof DatabaseError && OF_A_ROW.test(error.sqlState);
}

/** Data exception, integrity constraint violation, check option violation, PL/pgSQL error. */
const OF_A_ROW = /^(?:22|23|44|P0)/;

/** Whether a statement ran out of its time, ours or the server's: a smaller one may not. */
export function tookTooLong(error: unknown): boolean {
  return error instanceof TimeoutError || (error instanceof DatabaseError && error.sqlState === '57014');
}
