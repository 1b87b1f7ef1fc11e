/**
 * The time-outs of a role are meant for sessions of people. For the transaction that is open `transaction_timeout`,
 * which PostgreSQL has since 17, is set aside, and it may be idle for so long: a bound is needed, or a client that
 * vanished would hold its locks for hours.
 */
export function timeoutsAside(idleMs: number): string {
  return `set local idle_in_transaction_session_timeout = ${idleMs};
    select case when pg_catalog.current_setting('server_version_num') operator(pg_catalog.>=) '170000'
      then pg_catalog.set_config('transaction_timeout', '0', true) end`;
}
