/** What the server's codes mean to us, where that is decided: https://www.postgresql.org/docs/current/errcodes-appendix.html */

/** Made again, the same call may succeed. */
const TRANSIENT = new Set([
  '08', // connection exception
  '40', // transaction rollback: serialization failure, deadlock
  '53', // insufficient resources: memory, disk, connections
  '25P03', // idle_in_transaction_session_timeout
  '25P04', // transaction_timeout
  '55P03', // lock not available (lock_timeout)
  '57014', // query cancelled, by statement_timeout or by hand
  '57P01', // admin shutdown, also pg_terminate_backend
  '57P02', // crash shutdown
  '57P03', // cannot connect now: starting up, shutting down
  '57P05', // idle_session_timeout
]);

/** Whether the same call may succeed if it is made again. */
export function isTransient(sqlState: string): boolean {
  return TRANSIENT.has(sqlState) || TRANSIENT.has(sqlState.slice(0, 2));
}

/** Whether the server ends the connection with it. */
export function endsConnection(sqlState: string): boolean {
  return /^(?:08|25P0[345]|57P0[1-5])/.test(sqlState);
}

/**
 * Whether a COMMIT may have been carried out all the same. A server that shuts down may do so after it; the time-outs
 * of a session (25P0x, 57P05) end none.
 */
export function leavesInDoubt(sqlState: string): boolean {
  return /^(?:08|57P0[124])/.test(sqlState);
}

/** Whether the server has undone the transaction for another's sake, or before it began. */
export function isUndone(sqlState: string): boolean {
  return /^(?:40001|40P01|25P0[34]|57P05)$/.test(sqlState);
}
