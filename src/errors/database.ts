import { SluiceError } from './base.js';

/** The server could not be reached, refused the log-in, or the connection was lost. */
export class ConnectionError extends SluiceError {
  readonly code = 'CONNECTION_FAILED';
  constructor(
    message: string,
    readonly retryable: boolean,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
  override get transient() {
    return this.retryable;
  }
}

/**
 * One of several hosts answered that it takes no writes any more: it is no longer the primary. The call did nothing,
 * and made again it goes to the host that is.
 */
export class NotPrimaryError extends SluiceError {
  readonly code = 'NOT_PRIMARY';
  constructor() {
    super('the server takes no writes any more: it is no longer the primary');
  }
  override get transient() {
    return true;
  }
}

/** The role lacks a privilege, or the session is read-only. */
export class PermissionDeniedError extends SluiceError {
  readonly code = 'PERMISSION_DENIED';
}

/** The queue tables are not in the schema. */
export class SchemaNotInstalledError extends SluiceError {
  readonly code = 'SCHEMA_NOT_INSTALLED';
  constructor(found: string) {
    super(`${found}: the pg-sluice tables are missing or incomplete; create them with admin.install()`);
  }
}

/** The schema is not what this version of pg-sluice needs. `findings` names every difference. */
export class SchemaMismatchError extends SluiceError {
  readonly code = 'SCHEMA_MISMATCH';
  constructor(
    message: string,
    readonly findings: readonly string[],
  ) {
    super(`${message}:\n  ${findings.join('\n  ')}`);
  }
}

/** Any other error that the server answered with. Carries codes and names only, never row contents. */
export class DatabaseError extends SluiceError {
  readonly code = 'DATABASE_ERROR';
  constructor(
    message: string,
    /** Five-character SQLSTATE, see https://www.postgresql.org/docs/current/errcodes-appendix.html */
    readonly sqlState: string,
    readonly constraint?: string,
    /** Row of the failed COPY, counted from 1, where the server named one. */
    readonly line?: number,
  ) {
    super(message);
  }
  /** Whether the server ends the connection with it: another statement on it would fail, for nothing. */
  get endsConnection(): boolean {
    return /^(?:08|25P0[345]|57P0[1-5])/.test(this.sqlState);
  }
  override get transient() {
    return TRANSIENT_STATES.has(this.sqlState) || TRANSIENT_CLASSES.has(this.sqlState.slice(0, 2));
  }
}

const TRANSIENT_CLASSES = new Set([
  '08', // connection exception
  '40', // transaction rollback: serialization failure, deadlock
  '53', // insufficient resources: memory, disk, connections
]);
const TRANSIENT_STATES = new Set([
  '25P03', // idle in transaction timeout
  '55P03', // lock not available (lock_timeout)
  '57014', // query cancelled, by statement_timeout or by hand
  '57P01', // admin shutdown, also pg_terminate_backend
  '57P02', // crash shutdown
  '57P03', // cannot connect now: starting up, shutting down
]);

/** The embedded PostgreSQL could not be started. The message carries the server's own words. */
export class EmbeddedServerError extends SluiceError {
  readonly code = 'EMBEDDED_SERVER';
}
