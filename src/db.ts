import pg from 'pg';
import { backoffMs, sleep } from './backoff.js';
import { orAbort } from './deferred.js';
import { driverError, isUnresolved } from './driver-error.js';
import { ClosedError, ConnectionError, SluiceError } from './errors/index.js';
import { Hosts } from './hosts.js';
import { HostsClient, type HostsConfig } from './hosts-client.js';
import { type Clients, oneTransaction } from './on-client.js';
import { type Experience, handBack, type Queryable, run, Session, takeClient } from './session.js';

export type { Queryable, Session };

/** A client of the caller's, perhaps in the middle of a transaction of the caller's. */
export type CallersClient = pg.ClientBase;

export interface DbOptions {
  /** Schema of the queue tables; must have passed `check.schemaName`. */
  schema: string;
  /** Largest number of connections in the pool. */
  maxConnections: number;
  /** Longest wait for a connection, in ms. */
  connectTimeoutMs: number;
}

/** Between two tries to connect to a host that had just been found. */
const HOST_GONE = { baseMs: 20, maxMs: 500 };

/** Longest wait for a connection of the small pool, and for an answer on it. */
const URGENT_TIMEOUT_MS = 5_000;

/**
 * One database: a pool for the work, and a small one beside it for what must never wait behind the work:
 * heartbeats, doorbells, and the end of a half-dead backend. (Batches in flight may hold the whole main pool.)
 * With session.ts the only file that talks to the driver; where the URL has several hosts, hosts-client.ts connects.
 */
export class Db implements Queryable, Clients {
  readonly schema: string;
  /** Never waits behind the work; nothing that it is asked takes longer than some seconds. */
  readonly urgent: Queryable & Clients;
  #urgentPool: pg.Pool;
  /** Where the URL has several, or asks for a certain kind: the clients of all pools go by them. */
  readonly #hosts: Hosts | undefined;
  /** Requests for a client that the pool has not answered yet. */
  readonly #unanswered = new Set<Promise<unknown>>();
  readonly #known: Experience = { prepares: true, wrote: false, moves: 0 };
  /** When each client was new: those from before a move are of no use. */
  readonly #movesOf = new WeakMap<pg.PoolClient, number>();
  #reached = false;
  #closed: Promise<void> | undefined;

  private constructor(
    /** The main pool. */
    readonly pool: pg.Pool,
    readonly schemaName: string,
    private readonly ownsPool: boolean,
  ) {
    this.schema = pg.escapeIdentifier(schemaName);
    const { hosts } = pool.options as { hosts?: unknown };
    this.#hosts = hosts instanceof Hosts ? hosts : undefined;
    this.#urgentPool = quiet(
      new pg.Pool({
        ...connectionOf(pool),
        max: 2,
        allowExitOnIdle: true,
        // A socket that has gone silent must not keep the next heartbeat waiting, nor close() for ever.
        connectionTimeoutMillis: URGENT_TIMEOUT_MS,
      }),
    );
    this.urgent = {
      schema: this.schema,
      session: (signal) => this.#session(this.#urgentPool, signal),
      query: (text, values) => this.#query(this.urgent, URGENT_TIMEOUT_MS, text, values),
    };
  }

  /** A database with a pool of its own. Connects at the first query. */
  static open(url: string, { schema, maxConnections, connectTimeoutMs }: DbOptions): Db {
    const hosts = Hosts.of(url);
    const where = hosts
      ? { hosts, Client: HostsClient as unknown as new () => pg.Client }
      : { connectionString: url };
    const pool = new pg.Pool({
      ...where,
      max: maxConnections,
      // The driver's default is to wait for ever.
      connectionTimeoutMillis: connectTimeoutMs,
      keepAlive: true,
      application_name: 'pg-sluice',
    });
    // The pool hides its password from whoever prints it, but not the URL that holds it.
    if (!hosts) Object.defineProperty(pool.options, 'connectionString', { enumerable: false });
    return new Db(quiet(pool), schema, true);
  }

  /** A database over a pool of the caller's, who also ends it. */
  static over(pool: pg.Pool, schema: string): Db {
    return new Db(pool, schema, false);
  }

  /** How a client of its own connects to the same database: for the listener. */
  get connection(): HostsConfig {
    return { ...connectionOf(this.pool), hosts: this.#hosts };
  }

  query<Row>(text: string, values?: readonly unknown[]): Promise<Row[]> {
    return this.#query(this, Infinity, text, values);
  }

  /** Runs statements on a client of the caller's, which stays as it is. */
  on(client: CallersClient): Queryable {
    return { schema: this.schema, query: (text, values) => run(client, text, values) };
  }

  /** Takes a client for a transaction or a COPY. Give it back with `release()` or `discard()`. */
  session(signal?: AbortSignal): Promise<Session> {
    return this.#session(this.pool, signal);
  }

  /** Runs `work` in one READ COMMITTED transaction on one client: committed when it resolves, rolled back when it rejects. */
  async transaction<T>(work: (session: Session) => Promise<T>): Promise<T> {
    const session = await this.session();
    try {
      await session.begin();
      const result = await work(session);
      await session.commit();
      session.release();
      return result;
    } catch (error) {
      await session.leave(error);
      throw error;
    }
  }

  /** To be called when something was written: who refuses that later is no longer the one to write to. */
  hasWritten(): void {
    this.#known.wrote = true;
  }

  /** Ends the pools that are ours; waits for clients in use. Twice is fine. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    if (this.ownsPool) this.#hosts?.close();
    // Whoever waits for a client when a pool ends would get neither a client nor an error before the pool's time-out.
    if (this.ownsPool) await Promise.allSettled(this.#unanswered);
    await Promise.all([this.#urgentPool.end(), this.ownsPool ? this.pool.end() : undefined]);
  }

  #query<Row>(on: Clients, ms: number, text: string, values?: readonly unknown[]): Promise<Row[]> {
    const limits = { what: 'the answer to a statement', ms };
    return oneTransaction(on, limits, (session) => session.query(text, values));
  }

  async #session(pool: pg.Pool, signal?: AbortSignal): Promise<Session> {
    signal?.throwIfAborted();
    if (this.#closed) throw new ClosedError('the connection to the database');
    const connecting = this.#answered(this.#client(pool));
    try {
      const { stream } = pool.options;
      return new Session(await orAbort(connecting, signal), this.schema, this.#known, stream);
    } catch (error) {
      // pg cannot withdraw a request for a client: hand it back when it comes.
      if (signal?.aborted) connecting.then((client) => handBack(client)).catch(() => undefined);
      throw error;
    }
  }

  /** Of several hosts the one that was found may be gone a moment later: then it is looked for again. */
  async #client(pool: pg.Pool): Promise<pg.PoolClient> {
    // A little earlier than the pool's, or the last try would be given the whole time once more.
    const deadline = performance.now() + 0.9 * (pool.options.connectionTimeoutMillis ?? 0);
    for (let failures = 1; ; failures++) {
      try {
        const client = await takeClient(pool);
        this.#reached = true;
        if (this.#isCurrent(client)) return client;
        handBack(client, true);
        failures = 0;
      } catch (error) {
        const failure = this.#reached ? unlessUnresolved(driverError(error)) : driverError(error);
        // An error of ours comes from the search, which has used up its time.
        const gone = this.#hosts && failure instanceof SluiceError && failure !== error && failure.transient;
        if (!gone || performance.now() > deadline) throw failure;
        await sleep(backoffMs(failures, HOST_GONE));
      }
    }
  }

  /** Behind one address there may be another server by now, to which only new connections lead. */
  #isCurrent(client: pg.PoolClient): boolean {
    const { moves } = this.#known;
    if (!this.#movesOf.has(client)) this.#movesOf.set(client, moves);
    return this.#movesOf.get(client) === moves;
  }

  #answered<T>(request: Promise<T>): Promise<T> {
    this.#unanswered.add(request);
    const answered = () => void this.#unanswered.delete(request);
    request.then(answered, answered);
    return request;
  }
}

/** A value as an SQL literal, for the few scripts that must travel in one message. */
export function literal(value: string): string {
  return pg.escapeLiteral(value);
}

/** The name was known before: that it is not for a while is a passing failure. */
function unlessUnresolved(error: Error): Error {
  return isUnresolved(error) ? new ConnectionError(error.message, true, { cause: error.cause }) : error;
}

/** An idle client whose backend dies makes the pool emit `error`; the pool has already dropped it. */
function quiet(pool: pg.Pool): pg.Pool {
  return pool.on('error', () => undefined);
}

/** The pool keeps its secrets where a spread does not reach them. */
function connectionOf({ options }: pg.Pool): pg.PoolConfig {
  const { connectionString, password } = options;
  return {
    ...options,
    password,
    // The driver's own leaves the statement running on the server.
    query_timeout: 0,
    ...(connectionString === undefined ? {} : { connectionString }),
  };
}
