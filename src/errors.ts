/** How far an ingest had come when it failed: what a caller needs to go on from there. */
export interface IngestProgress {
  /** Rows that are in the queue for certain: the first `committed` rows of the source, no more and no fewer. */
  committed: number;
  /** Source position of the last committed row. */
  position: string;
  /**
   * Set when the server could not be asked about the last batch, because it stayed away after the COMMIT was sent:
   * that one batch may be in the queue too, behind the `committed` rows.
   */
  inDoubt?: true;
}

/** Base of every error that pg-sluice throws. `code` is stable across releases: switch on it, not on the message. */
export abstract class SluiceError extends Error {
  abstract readonly code: string;
  /** Set when the error ended a ProducerStream. */
  progress?: IngestProgress;

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }

  /** Whether the same call may succeed if it is simply made again. */
  get transient(): boolean {
    return false;
  }
}

/** An option or a configuration field has a value that its rule refuses. Nothing was sent. */
export class InvalidOptionError extends SluiceError {
  readonly code = 'INVALID_OPTION';
  /** @param value as shown to the user; never a secret */
  constructor(
    readonly field: string,
    readonly rule: string,
    readonly value: string,
    options?: ErrorOptions,
  ) {
    super(`${field} must be ${rule}, got ${value}`, options);
  }
}

/** No source gave a value that is needed. */
export class MissingConfigError extends SluiceError {
  readonly code = 'MISSING_CONFIG';
  constructor(
    readonly field: string,
    where: string,
  ) {
    super(`${field} is missing: ${where}`);
  }
}

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

/** There is no queue of that name (any more). */
export class QueueNotFoundError extends SluiceError {
  readonly code = 'QUEUE_NOT_FOUND';
  constructor(readonly queue: string) {
    super(`queue ${shown(queue)} does not exist; create it with admin.createQueue()`);
  }
}

/** A queue of that name is already there. */
export class QueueAlreadyExistsError extends SluiceError {
  readonly code = 'QUEUE_ALREADY_EXISTS';
  constructor(readonly queue: string) {
    super(`queue ${shown(queue)} already exists; use admin.getQueue() to open it`);
  }
}

/** The queue still has workers, messages or workflows, so it was not deleted. */
export class QueueInUseError extends SluiceError {
  readonly code = 'QUEUE_IN_USE';
  constructor(
    readonly queue: string,
    readonly workers: number,
    readonly messages: number,
    /** Workflows of pgqrs. */
    readonly workflows: number,
  ) {
    super(
      `queue ${shown(queue)} is in use by ${workers} worker(s), ${messages} message(s), ${workflows} workflow(s); ` +
        'purge it with admin.purgeQueue() and delete its workers first',
    );
  }
}

/** A payload that cannot be stored: not JSON, or JSON that jsonb refuses. */
export class PayloadInvalidError extends SluiceError {
  readonly code = 'PAYLOAD_INVALID';
  constructor(
    /** Place of the item in its source or batch, counted from 0. */
    readonly index: number,
    readonly reason: string,
    options?: ErrorOptions,
  ) {
    super(`payload at index ${index} cannot be stored: ${reason}`, options);
  }
}

/** A payload whose JSON is longer than the configured limit. */
export class PayloadTooLargeError extends SluiceError {
  readonly code = 'PAYLOAD_TOO_LARGE';
  constructor(
    readonly index: number,
    readonly actualBytes: number,
    readonly maxBytes: number,
  ) {
    super(
      `payload at index ${index} is ${actualBytes} bytes of JSON; the limit is ${maxBytes} (maxPayloadBytes)`,
    );
  }
}

/** A live worker already goes by that name. */
export class WorkerAlreadyActiveError extends SluiceError {
  readonly code = 'WORKER_ALREADY_ACTIVE';
  constructor(
    readonly worker: string,
    readonly status: string,
  ) {
    super(
      `worker "${worker}" is already registered and ${status}; ` +
        'stop it, wait until its heartbeat is stale, or choose another hostname or port',
    );
  }
}

/** This worker's registration was taken over or deleted: its process must stop working as it. */
export class WorkerFencedError extends SluiceError {
  readonly code = 'WORKER_FENCED';
  constructor(readonly worker: string) {
    super(`worker ${worker} is no longer registered as this process: it was taken over or deleted`);
  }
}

/** A worker cannot go from its present state to the wanted one. */
export class InvalidStateTransitionError extends SluiceError {
  readonly code = 'INVALID_STATE_TRANSITION';
  constructor(
    readonly from: string,
    readonly to: string,
    readonly reason: string,
  ) {
    super(`worker cannot go from ${from} to ${to}: ${reason}`);
  }
}

/** Another run has taken the stream over; this one must stop. */
export class StreamFencedError extends SluiceError {
  readonly code = 'STREAM_FENCED';
  constructor(readonly stream: string) {
    super(`stream ${stream} was taken over by another run`);
  }
}

/** The server lost commits that it had confirmed (an asynchronous fail-over). Restart the source after `position`. */
export class StreamRegressedError extends SluiceError {
  readonly code = 'STREAM_REGRESSED';
  constructor(
    readonly stream: string,
    readonly position: string,
  ) {
    super(
      `the server lost confirmed commits of stream ${stream}; restart its source after position ${position}`,
    );
  }
}

/** The stream's ledger row is gone. */
export class StreamNotFoundError extends SluiceError {
  readonly code = 'STREAM_NOT_FOUND';
  constructor(readonly stream: string) {
    super(`the ledger row of stream ${stream} is gone: its worker was swept as dead, or somebody deleted it`);
  }
}

/** Something did not happen within its deadline. */
export class TimeoutError extends SluiceError {
  readonly code = 'TIMEOUT';
  constructor(
    what: string,
    readonly ms: number,
  ) {
    super(`${what} took longer than ${ms} ms`);
  }
  override get transient() {
    return true;
  }
}

/** The object was closed before or during the call. */
export class ClosedError extends SluiceError {
  readonly code = 'CLOSED';
  constructor(what: string) {
    super(`${what} is closed`);
  }
}

/** The embedded PostgreSQL could not be started. The message carries the server's own words. */
export class EmbeddedServerError extends SluiceError {
  readonly code = 'EMBEDDED_SERVER';
}

/** Messages, archived ones too, or workflow runs still refer to the worker, so it was not deleted. */
export class WorkerInUseError extends SluiceError {
  readonly code = 'WORKER_IN_USE';
  constructor(readonly workerId: string) {
    super(
      `messages, perhaps archived ones, or workflow runs still refer to worker ${workerId}; ` +
        'delete those first, for instance with admin.purgeQueue()',
    );
  }
}

/** A name as it may stand in a message: quoted, on one line, not too long. */
export function shown(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 77)}…` : name);
}
