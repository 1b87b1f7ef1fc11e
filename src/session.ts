import { createHash } from 'node:crypto';
import type pg from 'pg';
import { cancel, type Inside, type OpensStream } from './cancel.js';
import { copyIn } from './copy-in.js';
import { type Deferred, deferred } from './deferred.js';
import { driverError } from './driver-error.js';
import { isAnswer } from './errors/answer.js';
import {
  ConnectionError,
  DatabaseError,
  NotPrimaryError,
  PermissionDeniedError,
  StalePlanError,
} from './errors/index.js';
import { HostsClient } from './hosts-client.js';
import { timeoutsAside } from './sql/own-transaction.js';

/** What runs one statement: the database, or one session of it. */
export interface Queryable {
  /** Schema of the queue tables, as a quoted identifier: ready to be spliced into a statement. */
  readonly schema: string;
  query<Row>(text: string, values?: readonly unknown[]): Promise<Row[]>;
}

/** What the sessions of one database have learnt about it. */
export interface Experience {
  /** Prepared statements can be relied on. */
  prepares: boolean;
  /** It takes writes. */
  wrote: boolean;
  /** How often it turned out to take none any more. */
  moves: number;
}

const READ_ONLY_TRANSACTION = '25006';
/** A transaction may be idle while it waits for its turn, but a client that vanished must not hold it for long. */
const IDLE_MS = 60_000;

/** One client of the pool, held for a transaction or a COPY. */
export class Session implements Queryable {
  #given = false;
  /** Statements that have got no answer. */
  #asked = 0;
  #committing = false;
  #isLent = false;
  /** Rejects when the client is given up: what it still has to say is of no interest. */
  readonly #over: Deferred<never> = deferred();
  /** A transaction of ours may be open. */
  #begun = false;
  /** Not even a ROLLBACK is possible. */
  #broken = false;
  /** Its prepared statements are out of date. */
  #worn = false;

  constructor(
    private readonly client: pg.PoolClient,
    readonly schema: string,
    private readonly known: Experience,
    /** How the client opened its socket, where not as usual. */
    private readonly stream?: OpensStream,
  ) {}

  /** For statements of the caller's own, in a transaction of ours. */
  get lent(): pg.ClientBase {
    this.#isLent = true;
    return this.client;
  }

  query<Row>(text: string, values?: readonly unknown[]): Promise<Row[]> {
    return this.#rows<Row>(text, values);
  }

  /**
   * As `query`, but parsed and planned once per connection, which halves the time of a short statement. Where a pooler
   * hands out another server connection each time, the first one that is missed ends it for the whole database.
   */
  async prepared<Row>(text: string, values: readonly unknown[]): Promise<Row[]> {
    if (this.known.prepares) {
      try {
        return await this.#rows<Row>({ name: preparedName(text), text }, values);
      } catch (error) {
        // In a transaction only its beginner can do it again.
        if (error instanceof StalePlanError && !this.#begun) this.#worn = true;
        else if (error instanceof DatabaseError && PREPARED_ELSEWHERE.has(error.sqlState))
          this.known.prepares = false;
        else throw error;
      }
    }
    return this.query(text, values);
  }

  /** Several statements in one message (simple protocol: no parameters). Resolves with each command's tag. */
  async script(text: string): Promise<string[]> {
    return (await this.#script(text)).map((result) => result.command);
  }

  /**
   * Opens a READ COMMITTED transaction, and runs `first` in it in the same message.
   * @param idleMs how long it may be idle, whatever the role's time-outs say
   * @returns the row of the last statement, if it returns one
   */
  async begin<Row>(first = '', idleMs = IDLE_MS): Promise<Row> {
    this.#begun = true;
    const script = `begin isolation level read committed; ${timeoutsAside(idleMs)}; ${first}`;
    return (await this.#script(script)).at(-1)?.rows[0] as Row;
  }

  /** Sends `chunks` by COPY ... FROM STDIN and resolves with the number of rows. After a failure leave the session. */
  copyIn(text: string, chunks: Iterable<Buffer>): Promise<number> {
    // Once it is given up the chunks are no longer its own.
    return this.#answered(copyIn(this.client, text, chunks, () => this.#given)).catch((error: unknown) => {
      this.#broken = true;
      throw error;
    });
  }

  /**
   * Commits, with a last statement in the same message if there is one: when that fails the COMMIT is not reached.
   * Throws too when the transaction had failed before, which COMMIT answers with ROLLBACK and no error.
   */
  async commit(lastStatement = ''): Promise<void> {
    this.#committing = true;
    const tag = (await this.script(`${lastStatement}; commit`).catch(this.#refused)).at(-1);
    this.#committing = false;
    this.#begun = false;
    if (tag !== 'COMMIT') throw new DatabaseError(`COMMIT was answered with ${String(tag)}`, '40000');
  }

  /** What the server said when it ended the connection by itself. */
  get lastWords(): DatabaseError | undefined {
    const words = lastWords.get(this.client);
    return words instanceof DatabaseError ? words : undefined;
  }

  /**
   * Gives the client back after a failure: in order where that was the server's answer, or came when no statement was
   * under way; else it is discarded. Never throws.
   */
  async leave(error: unknown): Promise<void> {
    const lastWord =
      this.#isCut ||
      error instanceof NotPrimaryError ||
      (error instanceof DatabaseError && error.endsConnection);
    if (this.#broken || this.#asked > 0 || !isAnswer(error) || lastWord) this.discard();
    else if (this.#begun) await this.rollback();
    else this.release();
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

  /**
   * Gives the client up, whatever it is doing: pending statements reject at once, the server is told to cancel the one
   * it is at, and the socket is cut. A COMMIT is not cancelled: where it waits for a synchronous standby, that would
   * make it visible without one.
   */
  discard(): void {
    this.#give(true);
  }

  async #rows<Row>(text: string | pg.QueryConfig, values?: readonly unknown[]): Promise<Row[]> {
    const { rows } = await this.#answered(this.client.query(text, values as unknown[]));
    return rows as Row[];
  }

  async #script(text: string): Promise<pg.QueryResult[]> {
    const results: pg.QueryResult | pg.QueryResult[] = await this.#answered(this.client.query(text));
    return [results].flat();
  }

  async #answered<T>(statement: Promise<T>): Promise<T> {
    this.#asked++;
    try {
      const answered = await answer(this.client, Promise.race([statement, this.#over.promise]));
      this.#asked--;
      return answered;
    } catch (error) {
      const failure = this.#moved(error) ? new NotPrimaryError({ cause: error }) : error;
      if (failure instanceof NotPrimaryError) this.known.moves++;
      if (isAnswer(failure)) this.#asked--;
      throw failure;
    }
  }

  /** It took writes, and takes none any more: behind its address another server has taken over, or will. */
  #moved(error: unknown): boolean {
    return (
      this.known.wrote && error instanceof PermissionDeniedError && error.sqlState === READ_ONLY_TRANSACTION
    );
  }

  readonly #refused = (error: unknown): never => {
    if (isAnswer(error)) this.#committing = false;
    throw error;
  };

  get #isCut(): boolean {
    return (this.client as unknown as Inside).connection.stream.destroyed;
  }

  #give(broken: boolean): void {
    if (this.#given) return;
    this.#given = true;
    if (!broken) {
      handBack(this.client, this.#worn);
      return;
    }
    const over = new ConnectionError('the connection was given up', true);
    this.#over.reject(over);
    if (this.client instanceof HostsClient) this.client.doubt();
    const cut = () => {
      // A black-holed socket never answers the polite end() that release(true) sends.
      // The error listener stays: the driver may still report the cut.
      (this.client as unknown as Inside).connection.stream.destroy();
      this.client.release(true);
    };
    const isAtWork = !this.#isCut && !this.#committing && (this.#asked > 0 || this.#isLent);
    if (!isAtWork) {
      cut();
      return;
    }
    // Whoever has it says nothing more in the meantime.
    this.client.query = () => Promise.reject(over) as never;
    void cancel(this.client, this.stream).then(cut);
  }
}

/**
 * Takes a client out of the pool. A checked-out client whose backend dies without a listener is an uncaught exception,
 * even with pool.on('error'); and it may die before whoever awaits it has his turn. So it is listened to at once.
 */
export function takeClient(pool: pg.Pool): Promise<pg.PoolClient> {
  return new Promise((resolve, reject) => {
    pool.connect((error, client) => {
      if (!client) {
        reject(error ?? new Error('the pool gave no client'));
        return;
      }
      client.on('error', heard);
      resolve(client);
    });
  });
}

/** Gives a client back to the pool, which listens to it from then on unless it is to drop it. */
export function handBack(client: pg.PoolClient, drop = false): void {
  if (!drop) client.removeListener('error', heard);
  client.release(drop);
}

/** Why the server has ended a connection on which nothing was asked: what is asked next is told something else. */
const lastWords = new WeakMap<pg.ClientBase, Error>();

function heard(this: pg.ClientBase, error: Error): void {
  if (!lastWords.has(this)) lastWords.set(this, driverError(error));
}

/** Not there on this server connection, or there already: neither has run anything. */
const PREPARED_ELSEWHERE = new Set(['26000', '42P05']);

const preparedNames = new Map<string, string>();

/** By the text, so that whoever prepares it on a shared connection prepares the same; with its name for who reads it. */
function preparedName(text: string): string {
  let name = preparedNames.get(text);
  if (name === undefined) {
    const [, called = 'sluice'] = /^\/\* (sluice:\w{1,40})/.exec(text) ?? [];
    name = `${called}:${createHash('sha256').update(text).digest('hex').slice(0, 16)}`;
    preparedNames.set(text, name);
  }
  return name;
}

/** Runs one statement, and throws errors of ours only. */
export async function run<Row>(on: pg.ClientBase, text: string, values?: readonly unknown[]): Promise<Row[]> {
  return (await answer(on, on.query<Row & pg.QueryResultRow>(text, values as unknown[]))).rows;
}

/**
 * What the server answers, or an error of ours. A COMMIT that waits for a synchronous standby can be told to wait no
 * longer, by a cancel request for example: it is answered like any other, with a warning before it, but a fail-over may
 * undo it. Who asked must take it for one that was not answered.
 */
async function answer<T>(client: pg.ClientBase, asked: Promise<T>): Promise<T> {
  const before = unreplicatedCommits(client);
  const answered = await asked.catch((error: unknown) => {
    if (client instanceof HostsClient && client.isLeft(error)) throw new NotPrimaryError({ cause: error });
    const failure = driverError(error);
    const reason = failure instanceof ConnectionError ? lastWords.get(client) : undefined;
    throw reason instanceof DatabaseError ? reason : failure;
  });
  if (unreplicatedCommits(client) === before) return answered;
  throw new DatabaseError(
    'the server committed without waiting for its synchronous standby',
    RESOLUTION_UNKNOWN,
  );
}

/** transaction_resolution_unknown, of the class of lost connections. */
const RESOLUTION_UNKNOWN = '08007';

const unreplicated = new WeakMap<pg.ClientBase, number>();

/** How many of its commits the server has said not to have waited for: by the routine, since its words are translated. */
function unreplicatedCommits(client: pg.ClientBase): number {
  if (!unreplicated.has(client)) {
    unreplicated.set(client, 0);
    client.on('notice', ({ routine }: { routine?: string | undefined }) => {
      if (routine === 'SyncRepWaitForLSN') unreplicated.set(client, unreplicatedCommits(client) + 1);
    });
  }
  return unreplicated.get(client) as number;
}
