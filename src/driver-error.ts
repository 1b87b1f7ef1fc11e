import type pg from 'pg';
import {
  ConnectionError,
  DatabaseError,
  PermissionDeniedError,
  SchemaNotInstalledError,
  SluiceError,
  StalePlanError,
} from './errors/index.js';

const OBJECT_MISSING = new Set(['42P01', '3F000', '42883']); // table, schema, function
const LOGIN_REFUSED = new Set(['28000', '28P01', '3D000']); // role, password, database
const NOT_ALLOWED = new Set(['42501', '25006']); // privilege, read-only transaction
const HOPELESS = new Set(['ENOTFOUND', 'EINVAL', 'ERR_INVALID_URL', 'ERR_SOCKET_BAD_PORT']);

/**
 * The driver's error as one of ours. Copies the code, the constraint and the line number only:
 * `detail` and `where` hold row contents.
 */
export function driverError(error: unknown): Error {
  if (error instanceof SluiceError) return error;
  if (isServerError(error)) return serverError(error);
  if (error instanceof TypeError || error instanceof RangeError) return error; // a bug, not a lost connection
  if (error instanceof Error) return connectionError(error);
  return new Error(String(error));
}

/** Not by its class: the pool may be the caller's, made by another copy of the driver. */
function isServerError(error: unknown): error is pg.DatabaseError {
  return error instanceof Error && 'severity' in error && 'code' in error && typeof error.code === 'string';
}

function serverError(error: pg.DatabaseError): SluiceError {
  const state = error.code ?? 'XX000';
  const message = `${withoutValue(error.message, state)} (SQLSTATE ${state})`;
  if (OBJECT_MISSING.has(state)) return new SchemaNotInstalledError(message);
  if (NOT_ALLOWED.has(state)) return new PermissionDeniedError(message, state);
  if (LOGIN_REFUSED.has(state))
    return new ConnectionError(`the server refused the log-in: ${message}`, false);
  // By the routine, since the words are translated and 0A000 means many things.
  const Refusal = error.routine === 'RevalidateCachedQuery' ? StalePlanError : DatabaseError;
  return new Refusal(message, state, error.constraint, copyLine(error.where));
}

/** Whether the host's name could not be resolved: a typing error at the beginning, a passing failure later. */
export function isUnresolved(error: unknown): boolean {
  return (
    error instanceof ConnectionError &&
    (error.cause as NodeJS.ErrnoException | undefined)?.code === 'ENOTFOUND'
  );
}

/** Everything that is not the server's answer means that there is no usable connection. */
function connectionError(error: Error): ConnectionError {
  const { code } = error as NodeJS.ErrnoException;
  // A host with several addresses fails with an AggregateError that has no message of its own.
  const reason = error.message || code || error.name;
  const hopeless = HOPELESS.has(code ?? '') || reason.includes('after calling end on the pool');
  return new ConnectionError(`no connection to the database: ${reason}`, !hopeless, {
    cause: error,
  });
}

/** Values that do not fit their type: out of range, malformed. */
const NAMES_VALUE = /^22(?:003|007|008|P02)$/;

/** Some messages hold the offending value: `invalid input syntax for type json: "…"`, `value "…" is out of range`. */
function withoutValue(message: string, state: string): string {
  const short = message.replace(/: ".*"$/s, '');
  return NAMES_VALUE.test(state) ? short.replace(/".*"/s, '"…"') : short;
}

/** `COPY t, line 3, column c`, on the second line where a binary COPY reads jsonb; the words are translated, not their order. */
function copyLine(where: string | undefined): number | undefined {
  const line = where?.match(/^COPY [^,\n]*,\D+(\d+)/m)?.[1];
  return line === undefined ? undefined : Number(line);
}
