import { SluiceError } from './base.js';
import { endsConnection, isTransient } from './sqlstate.js';

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
 * The server answered that it takes no writes any more, where it did before: it is no longer the primary. The call did
 * nothing, and made again it goes to the host that is, or to the one that has taken over the address.
 */
export class NotPrimaryError extends SluiceError {
  readonly code = 'NOT_PRIMARY';
  constructor(options?: ErrorOptions) {
    super('the server takes no writes any more: it is no longer the primary', options);
  }
  override get transient() {
    return true;
  }
}

/** The role lacks a privilege, or the session is read-only. */
export class PermissionDeniedError extends SluiceError {
  readonly code = 'PERMISSION_DENIED';
  constructor(
    message: string,
    /** The server's SQLSTATE, where it refused it. */
    readonly sqlState?: string,
  ) {
    super(message);
  }
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
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
  /** Whether the server ends the connection with it: another statement on it would fail, for nothing. */
  get endsConnection(): boolean {
    return endsConnection(this.sqlState);
  }
  override get transient() {
    return isTransient(this.sqlState);
  }
}

/** A prepared statement's table was altered since. Prepared anew, on another connection, it works. */
export class StalePlanError extends DatabaseError {
  override get endsConnection() {
    return true;
  }
  override get transient() {
    return true;
  }
}

/** The embedded PostgreSQL could not be started. The message carries the server's own words. */
export class EmbeddedServerError extends SluiceError {
  readonly code = 'EMBEDDED_SERVER';
}
