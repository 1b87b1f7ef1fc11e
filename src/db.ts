import pg from 'pg';
import { copyIn } from './copy-in.js';
import { orAbort } from './deferred.js';
import { driverError } from './driver-error.js';
import { ClosedError, DatabaseError } from './errors/index.js';

/** What runs one statement: the database, or one session of it. */
export interface Queryable {
  /** Schema of the queue tables, as a quoted identifier: ready to be spliced into a statement. */
  readonly schema: string;
  query<Row>(text: string, values?: readonly unknown[]): Promise<Row[]>;
}

export interface DbOptions {
  /** Schema of the queue tables; must have passed `check.schemaName`. */
  schema: string;
  /** Largest number of connections in the pool. */
  maxConnections: number;
  /** Longest wait for a connection, in ms. */
  connectTimeoutMs: number;
}

/** Longest wait for a connection of the small pool, and for an answer on it. */
const URGENT_TIMEOUT_MS = 5_000;

/**
 * One database: a pool for the work, and a small one beside it for what must never wait behind the work:
 * heartbeats, doorbells, and the end of a half-dead backend. (Batches in flight may hold the whole main pool.)
 * The only file that talks to the driver.
 */
export class Db implements Queryable {
  readonly schema: string;
  readonly urgent: Queryable;
  #urgentPool: pg.Pool;
  /** Statements and requests for a client that the pool has not answered yet. */
  readonly #unanswered = new Set<Promise<unknown>>();
  #closed: Promise<void> | undefined;

  private constructor(
    /** The main pool. */
    readonly pool: pg.Pool,
    readonly schemaName: string,
    private readonly ownsPool: boolean,
  ) {
    this.schema = pg.escapeIdentifier(schemaName);
    this.#urgentPool = quiet(
      new pg.Pool({
        ...connectionOf(pool),
        max: 2,
        allowExitOnIdle: true,
        // A socket that has gone silent must not keep the next heartbeat waiting, nor close() for ever.
        connectionTimeoutMillis: URGENT_TIMEOUT_MS,
        query_timeout: URGENT_TIMEOUT_MS,
      }),
    );
    this.urgent = {
      schema: this.schema,
      query: (text, values) => this.#query(this.#urgentPool, text, values),
    };
  }

  /** A database with a pool of its own. Connects at the first query. */
  static open(url: string, { schema, maxConnections, connectTimeoutMs }: DbOptions): Db {
    const pool = new pg.Pool({
      connectionString: url,
      max: maxConnections,
      // The driver's default is to wait for ever.
      connectionTimeoutMillis: connectTimeoutMs,
      keepAlive: true,
      application_name: 'pg-sluice',
    });
    // The pool hides its password from whoever prints it, but not the URL that holds it.
    Object.defineProperty(pool.options, 'connectionString', { enumerable: false });
    return new Db(quiet(pool), schema, true);
  }

  /** A database over a pool of the caller's, who also ends it. */
  static over(pool: pg.Pool, schema: string): Db {
    return new Db(pool, schema, false);
  }

  /** How a client of its own connects to the same database: for the listener. */
  get connection(): pg.ClientConfig {
    return connectionOf(this.pool);
  }

  query<Row>(text: string, values?: readonly unknown[]): Promise<Row[]> {
    return this.#query(this.pool, text, values);
  }

  /** Takes a client for a transaction or a COPY. Give it back with `release()` or `discard()`. */
  async session(signal?: AbortSignal): Promise<Session> {
    signal?.throwIfAborted();
    if (this.#closed) throw new ClosedError('the connection to the database');
    const connecting = this.#answered(this.pool.connect());
    try {
      return new Session(await orAbort(connecting.catch(rethrow), signal), this.schema);
    } catch (error) {
      // pg cannot withdraw a request for a client: hand it back when it comes.
      if (signal?.aborted) connecting.then((client) => client.release()).catch(() => undefined);
      throw error;
    }
  }

  /** Runs `work` in one READ COMMITTED transaction on one client: committed when it resolves, rolled back when it rejects. */
  async transaction<T>(work: (session: Session) => Promise<T>): Promise<T> {
    const session = await this.session();
    try {
      await session.script('begin isolation level read committed');
      const result = await work(session);
      await session.commit();
      session.release();
      return result;
    } catch (error) {
      await session.rollback();
      throw error;
    }
  }

  /** Ends the pools that are ours; waits for clients in use. Twice is fine. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    // Whoever waits for a client when a pool ends would get neither a client nor an error before the pool's time-out.
    if (this.ownsPool) await Promise.allSettled(this.#unanswered);
    await Promise.all([this.#urgentPool.end(), this.ownsPool ? this.pool.end() : undefined]);
  }

  #query<Row>(on: pg.Pool, text: string, values?: readonly unknown[]): Promise<Row[]> {
    if (this.#closed) return Promise.reject(new ClosedError('the connection to the database'));
    return this.#answered(run<Row>(on, text, values));
  }

  #answered<T>(request: Promise<T>): Promise<T> {
    this.#unanswered.add(request);
    const answered = () => void this.#unanswered.delete(request);
    request.then(answered, answered);
    return request;
  }
}

/** One client of the pool, held for a transaction or a COPY. */
export class Session implements Queryable {
  #given = false;
  readonly #onError = () => undefined;

  constructor(
    private readonly client: pg.PoolClient,
    readonly schema: string,
  ) {
    // A checked-out client whose backend dies without a listener is an uncaught exception, even with pool.on('error').
    client.on('error', this.#onError);
  }

  query<Row>(text: string, values?: readonly unknown[]): Promise<Row[]> {
    return run(this.client, text, values);
  }

  /** Several statements in one message (simple protocol: no parameters). Resolves with each command's tag. */
  async script(text: string): Promise<string[]> {
    const results = (await this.client.query(text).catch(rethrow)) as pg.QueryResult | pg.QueryResult[];
    return [results].flat().map((result) => result.command);
  }

  /** As `script`, for a script whose last statement returns one row: resolves with that row. */
  async scriptRow<Row>(text: string): Promise<Row> {
    const results = (await this.client.query(text).catch(rethrow)) as pg.QueryResult | pg.QueryResult[];
    return [results].flat().at(-1)?.rows[0] as Row;
  }

  /** Sends `chunks` by COPY ... FROM STDIN and resolves with the number of rows. After a failure discard the session. */
  copyIn(text: string, chunks: Iterable<Buffer>): Promise<number> {
    return copyIn(this.client, text, chunks).catch(rethrow);
  }

  /**
   * Commits, with a last statement in the same message if there is one: when that fails the COMMIT is not reached.
   * Throws too when the transaction had failed before, which COMMIT answers with ROLLBACK and no error.
   */
  async commit(lastStatement = ''): Promise<void> {
    const tag = (await this.script(`${lastStatement}; commit`)).at(-1);
    if (tag !== 'COMMIT') throw new DatabaseError(`COMMIT was answered with ${String(tag)}`, '40000');
  }

  /** Rolls back and releases; a session that cannot even do that is discarded. Never throws: it runs in catch blocks. */
  async rollback(deadlineMs = 5_000): Promise<void> {
    const timer = setTimeout(() => this.discard(), deadlineMs);
    try {
      await this.script('rollback');
      this.release();
    } catch {
      this.discard();
    } finally {
      clearTimeout(timer);
    }
  }

  /** Gives the client back to the pool. Only in order: no transaction open, no COPY running. */
  release(): void {
    this.#give(false);
  }

  /** Cuts the socket, whatever it is doing, and removes the client from the pool. Pending statements reject. */
  discard(): void {
    this.#give(true);
  }

  #give(broken: boolean): void {
    if (this.#given) return;
    this.#given = true;
    if (broken) {
      // A black-holed socket never answers the polite end() that release(true) sends.
      // The error listener stays: the driver may still report the cut.
      (this.client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
      this.client.release(true);
    } else {
      this.client.removeListener('error', this.#onError);
      this.client.release();
    }
  }
}

/** A value as an SQL literal, for the few scripts that must travel in one message. */
export function literal(value: string): string {
  return pg.escapeLiteral(value);
}

async function run<Row>(
  on: pg.Pool | pg.PoolClient,
  text: string,
  values?: readonly unknown[],
): Promise<Row[]> {
  try {
    const result = await on.query(text, values as unknown[]);
    return result.rows as Row[];
  } catch (error) {
    throw driverError(error);
  }
}

function rethrow(error: unknown): never {
  throw driverError(error);
}

/** An idle client whose backend dies makes the pool emit `error`; the pool has already dropped it. */
function quiet(pool: pg.Pool): pg.Pool {
  return pool.on('error', () => undefined);
}

/** The pool keeps its secrets where a spread does not reach them. */
function connectionOf({ options }: pg.Pool): pg.PoolConfig {
  const { connectionString, password } = options;
  return { ...options, password, ...(connectionString === undefined ? {} : { connectionString }) };
}
