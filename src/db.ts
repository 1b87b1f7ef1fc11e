import { once } from 'node:events';
import pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { deferred, orAbort } from './deferred.js';
import { driverError } from './driver-error.js';
import { ClosedError, TimeoutError } from './errors.js';

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

/**
 * One database: a pool for the work, and a small one beside it for what must never wait behind the work:
 * heartbeats, doorbells, and the end of a half-dead backend. (Batches in flight may hold the whole main pool.)
 * The only file that talks to the driver.
 */
export class Db implements Queryable {
  readonly schema: string;
  readonly urgent: Queryable;
  #urgentPool: pg.Pool;
  #closed: Promise<void> | undefined;

  private constructor(
    /** The main pool. */
    readonly pool: pg.Pool,
    readonly schemaName: string,
    private readonly ownsPool: boolean,
  ) {
    this.schema = pg.escapeIdentifier(schemaName);
    this.#urgentPool = quiet(new pg.Pool({ ...connectionOf(pool), max: 2, allowExitOnIdle: true }));
    this.urgent = { schema: this.schema, query: (text, values) => run(this.#urgentPool, text, values) };
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
    if (this.#closed) return Promise.reject(new ClosedError('the connection to the database'));
    return run(this.pool, text, values);
  }

  /** Takes a client for a transaction or a COPY. Give it back with `release()` or `discard()`. */
  async session(signal?: AbortSignal): Promise<Session> {
    signal?.throwIfAborted();
    if (this.#closed) throw new ClosedError('the connection to the database');
    const connecting = this.pool.connect();
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
    this.#closed ??= Promise.all([this.#urgentPool.end(), this.ownsPool ? this.pool.end() : undefined]).then(
      () => undefined,
    );
    return this.#closed;
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
  async copyIn(text: string, chunks: Iterable<Buffer>): Promise<number> {
    const copy = this.client.query(copyFrom(text));
    const iterator = chunks[Symbol.iterator]();
    let failed = false;
    // One chunk at a time: after an error the stream is not destroyed, and one more write would throw a TypeError.
    const writeNext = () => {
      if (failed) return;
      const next = iterator.next();
      if (next.done) copy.end();
      else copy.write(next.value, writeNext);
    };
    try {
      writeNext();
      // `error` may fire twice and `close` never: the first of the two that count decides.
      copy.on('error', () => (failed = true));
      await once(copy, 'finish');
      return copy.rowCount;
    } catch (error) {
      throw driverError(error);
    }
  }

  /** Commits; throws when the transaction had failed, which COMMIT answers with a ROLLBACK and no error. */
  async commit(): Promise<void> {
    const [tag] = await this.script('commit');
    if (tag !== 'COMMIT') throw new Error(`COMMIT was answered with ${String(tag)}`);
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

/** Rejects with a TimeoutError when `promise` is not settled after `ms`. */
export async function withDeadline<T>(what: string, ms: number, promise: Promise<T>): Promise<T> {
  const late = deferred<never>();
  const timer = setTimeout(() => late.reject(new TimeoutError(what, ms)), ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
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

/** The pool keeps its password where a spread does not reach it. */
function connectionOf(pool: pg.Pool): pg.PoolConfig {
  return { ...pool.options, password: pool.options.password };
}
