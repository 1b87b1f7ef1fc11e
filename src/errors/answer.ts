import { TimeoutError } from './base.js';
import { ConnectionError, DatabaseError } from './database.js';

/** Whether an error is the server's answer, so that the statement certainly did nothing. */
export function isAnswer(error: unknown): boolean {
  if (error instanceof ConnectionError || error instanceof TimeoutError) return false;
  return !(error instanceof DatabaseError && NO_ANSWER.test(error.sqlState));
}

/** A connection that ends may do so after the commit: 57P01 to 57P05 are shutdowns and the like. */
const NO_ANSWER = /^08|^57P0[1245]/;
