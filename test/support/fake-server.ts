// Long because a model of the server knows every statement that a stream sends, and they share one state.
import type { Db, Session } from '../../src/db.js';
import { type Deferred, deferred, orAbort } from '../../src/deferred.js';
import { isAnswer } from '../../src/errors/answer.js';
import { ConnectionError, DatabaseError, PermissionDeniedError } from '../../src/errors/index.js';
import { type Clients, oneTransaction } from '../../src/on-client.js';
import type { Transaction } from '../../src/sql/batches.js';
import { RAISED } from '../../src/sql/statement.js';

/**
 * What becomes of one exchange with the server:
 * - ok: it is carried out and answered;
 * - refused, forbidden: it is answered with an error, one that passes or one that does not;
 * - lost: the connection breaks before it arrives; unanswered: after it was carried out;
 * - late: the connection breaks at once, and yet it is carried out some time later;
 * - silent, silentAfter: it is never answered, and was not carried out, or was;
 * - stuck: a COMMIT has the lock of the ledger, and stays there until somebody ends its backend.
 */
export type Fate =
  'ok' | 'refused' | 'forbidden' | 'lost' | 'unanswered' | 'late' | 'silent' | 'silentAfter' | 'stuck';

export interface FakeServerOptions {
  /** Resolves when the next thing may happen. */
  step: (what: string) => Promise<unknown>;
  /** What becomes of the next exchange. */
  fate: (what: string) => Fate;
  /** Size of the pool. */
  clients: number;
}

interface Ledger {
  epoch: number;
  /** Negative when it has been fenced. */
  seq: number;
  rows: number;
  position: string;
}

/** The same as in src/. */
const CONNECT_TIMEOUT_MS = 30_000;
const URGENT_TIMEOUT_MS = 5_000;
const URGENT_CLIENTS = 2;
const ROLLBACK_TIMEOUT_MS = 5_000;

/**
 * As much of a server, and of the pools in front of it, as the batches of one stream need: transactions, COPY, the
 * ledger's row with its lock, cancel requests, and backends that live longer than their clients.
 */
export class FakeServer {
  /** The rows that are in the table, in the order of their commits. */
  readonly committed: { n: number; vt: number }[] = [];
  ledger: Ledger | undefined;
  #clock = 0;
  #holder: Backend | undefined;
  #freed = deferred();
  readonly #backends = new Map<number, Backend>();
  readonly #pool: Pool;
  readonly #urgentPool = new Pool(URGENT_CLIENTS, URGENT_TIMEOUT_MS);

  constructor(private readonly options: FakeServerOptions) {
    this.#pool = new Pool(options.clients, CONNECT_TIMEOUT_MS);
  }

  /** Clients of the main pool that somebody has. One that comes after nobody waits for it any more is not among them. */
  get inUse(): number {
    return this.#pool.inUse;
  }

  /** For what only ever calls these few methods. */
  get db(): Db {
    const urgent: Clients = { session: (signal) => this.#session(this.#urgentPool, signal) };
    const db: Pick<Db, 'schema' | 'urgent' | 'session'> = {
      schema: 'fake',
      urgent: {
        ...urgent,
        schema: 'fake',
        query: (text, values) =>
          oneTransaction(urgent, { what: nameOf(text), ms: URGENT_TIMEOUT_MS }, (session) =>
            session.query(text, values),
          ),
      },
      session: (signal) => this.#session(this.#pool, signal),
    };
    return db as Db;
  }

  async #session(pool: Pool, signal?: AbortSignal): Promise<Session> {
    signal?.throwIfAborted();
    const connecting = this.#connect(pool);
    try {
      const backend = await orAbort(connecting, signal);
      pool.inUse++;
      return this.#sessionOf(backend, pool);
    } catch (error) {
      if (signal?.aborted) connecting.then(() => pool.giveBack()).catch(() => undefined);
      throw error;
    }
  }

  async #connect(pool: Pool): Promise<Backend> {
    await pool.take();
    const backend = this.#backend();
    const timer = setTimeout(() => backend.cut(), pool.connectTimeoutMs);
    try {
      await this.#exchange(backend, 'connect', () => undefined);
      return backend;
    } catch (error) {
      pool.giveBack();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  #sessionOf(backend: Backend, pool: Pool): Session {
    let given = false;
    let broken = false;
    /** Statements that have got no answer. */
    let asked = 0;
    let committing = false;
    const exchange = async <T>(what: string, effect: (fate: Fate) => T | Promise<T>) => {
      if (given) throw lost();
      asked++;
      try {
        const answered = await this.#exchange(backend, what, effect);
        asked--;
        return answered;
      } catch (error) {
        if (isAnswer(error)) asked--;
        throw error;
      }
    };
    const discard = async () => {
      backend.cut();
      // The pool gets its client back when the server has been told, or is taken not to hear.
      if (asked > 0 && !committing) await this.#cancel(backend);
      pool.giveBack();
      // A server notices sooner or later, unless the network is silent.
      if (backend.deaf) return;
      await this.options.step('the backend notices');
      backend.end();
    };
    const session: Pick<
      Session,
      | 'schema'
      | 'query'
      | 'script'
      | 'begin'
      | 'copyIn'
      | 'commit'
      | 'leave'
      | 'rollback'
      | 'release'
      | 'discard'
    > = {
      schema: 'fake',
      query: async <Row>(text: string, values: readonly unknown[] = []) =>
        (await exchange(nameOf(text), () => this.#query(backend, text, values))) as Row[],
      script: (text) => {
        if (text !== 'rollback') throw new Error(`an unexpected script: ${text}`);
        return exchange('rollback', () => {
          backend.endTransaction();
          return ['ROLLBACK'];
        });
      },
      begin: async <Row>(first?: string) =>
        (await exchange('begin', () => {
          const lockTimeoutMs = Number(/lock_timeout = (\d+)/.exec(first ?? '')?.[1]);
          backend.transaction = { startedAt: ++this.#clock, rows: [], lockTimeoutMs };
          return { pid: backend.pid, startedAtMicros: String(backend.transaction.startedAt) };
        })) as Row,
      copyIn: (_text, chunks) => {
        const rows = rowsOf(Buffer.concat([...chunks]));
        broken = true;
        return exchange('copy', () => {
          backend.transaction?.rows.push(...rows);
          broken = false;
          return rows.length;
        });
      },
      commit: async (lastStatement) => {
        committing = true;
        try {
          await exchange('commit', (fate) => this.#commit(backend, lastStatement ?? '', fate));
          committing = false;
        } catch (error) {
          if (isAnswer(error)) committing = false;
          throw error;
        }
      },
      leave: async (error) => {
        if (broken || asked > 0 || !isAnswer(error)) session.discard();
        else if (backend.transaction) await session.rollback();
        else session.release();
      },
      rollback: async () => {
        const timer = setTimeout(() => session.discard(), ROLLBACK_TIMEOUT_MS);
        try {
          await session.script('rollback');
          session.release();
        } catch {
          session.discard();
        } finally {
          clearTimeout(timer);
        }
      },
      release: () => {
        if (given) return;
        given = true;
        pool.inUse--;
        pool.giveBack();
      },
      discard: () => {
        if (given) return;
        given = true;
        pool.inUse--;
        void discard();
      },
    };
    return session as Session;
  }

  /** On a connection of its own, which the network may be silent for too. It meets what the backend is at by then. */
  async #cancel(backend: Backend): Promise<void> {
    const fate = this.options.fate('cancel');
    await this.options.step(`cancel (${fate})`);
    if (fate === 'ok' || fate === 'unanswered' || fate === 'silentAfter') backend.cancel();
  }

  #backend(): Backend {
    const backend = new Backend(this.#backends.size + 1, (backend) => this.#unlock(backend));
    this.#backends.set(backend.pid, backend);
    return backend;
  }

  #exchange<T>(backend: Backend, what: string, effect: (fate: Fate) => T | Promise<T>): Promise<T> {
    const fate = this.options.fate(what);
    const answer = deferred<T>();
    backend.cut = () => answer.reject(lost());
    void this.#carryOut(backend, what, fate, effect, answer).catch((error: unknown) =>
      answer.reject(error as Error),
    );
    return answer.promise;
  }

  async #carryOut<T>(
    backend: Backend,
    what: string,
    fate: Fate,
    effect: (fate: Fate) => T | Promise<T>,
    answer: Deferred<T>,
  ): Promise<void> {
    const { step } = this.options;
    backend.deaf ||= fate === 'silent' || fate === 'silentAfter' || fate === 'stuck';
    if (fate === 'late') answer.reject(lost());
    await step(`${what} (${fate})`);
    if (fate === 'silent') return;
    if (fate === 'lost') backend.end();
    backend.throwIfEnded();
    if (fate === 'refused' || fate === 'forbidden') {
      backend.endTransaction();
      await step(`${what}: ${fate}`);
      throw fate === 'refused'
        ? new DatabaseError('deadlock', '40P01')
        : new PermissionDeniedError('forbidden');
    }
    const result = await effect(fate);
    if (fate === 'silentAfter') return;
    if (fate === 'unanswered') backend.end();
    await step(`${what}: answer`);
    backend.throwIfEnded();
    answer.resolve(result);
  }

  async #query(backend: Backend, text: string, values: readonly unknown[]): Promise<object[]> {
    const name = nameOf(text);
    if (name === 'open_stream') {
      this.ledger ??= { epoch: 1, seq: 0, rows: 0, position: '' };
      return [{ id: '1', ...this.ledger }];
    }
    if (name === 'end_transaction') {
      const [pid, startedAt] = values as [number, Transaction['startedAtMicros']];
      const meant = this.#backends.get(pid);
      if (meant?.transaction && String(meant.transaction.startedAt) === startedAt) meant.end();
      return [];
    }
    // Held to the end of the transaction, if there is one.
    await this.#lock(backend, backend.transaction?.lockTimeoutMs ?? 0);
    const { ledger } = this;
    if (!backend.transaction) backend.endTransaction();
    if (name === 'forget_stream') this.ledger = undefined;
    else if (name === 'fence_stream') {
      if (ledger?.epoch !== Number(values[1])) return [];
      if (ledger.seq >= 0) ledger.seq = -1 - ledger.seq;
    } else if (name !== 'confirm_stream') throw new Error(`an unexpected statement: ${text}`);
    return ledger ? [{ ...ledger }] : [];
  }

  async #commit(backend: Backend, lastStatement: string, fate: Fate): Promise<void> {
    const { transaction } = backend;
    if (!transaction) throw new DatabaseError('COMMIT was answered with ROLLBACK', '40000');
    const advance = lastStatement === '' ? undefined : advanceOf(lastStatement);
    if (advance) await this.#lock(backend, transaction.lockTimeoutMs);
    const { ledger } = this;
    if (advance && !(ledger?.epoch === advance.epoch && ledger.seq === advance.seq - 1)) {
      backend.endTransaction();
      throw new DatabaseError('the stream has moved', RAISED.streamMoved);
    }
    await this.options.step('commit: flush');
    if (fate === 'stuck') await backend.ended;
    backend.throwIfEnded();
    if (ledger && advance) {
      ledger.seq = advance.seq;
      ledger.rows += advance.rows;
      ledger.position = advance.position;
    }
    this.committed.push(...transaction.rows.map((n) => ({ n, vt: transaction.startedAt })));
    backend.endTransaction();
  }

  async #lock(backend: Backend, timeoutMs: number): Promise<void> {
    const stopped = deferred();
    const timer = timeoutMs > 0 ? setTimeout(() => stopped.reject(lockTimeout()), timeoutMs) : undefined;
    backend.cancel = () => stopped.reject(cancelled());
    try {
      while (this.#holder && this.#holder !== backend) {
        await Promise.race([this.#freed.promise, backend.ended, stopped.promise]);
        backend.throwIfEnded();
      }
      this.#holder = backend;
    } catch (error) {
      backend.endTransaction();
      throw error;
    } finally {
      clearTimeout(timer);
      backend.cancel = () => undefined;
    }
  }

  #unlock(backend: Backend): void {
    if (this.#holder !== backend) return;
    this.#holder = undefined;
    this.#freed.resolve();
    this.#freed = deferred();
  }
}

/** Clients, each with a connection of its own. */
class Pool {
  /** Those that somebody has. */
  inUse = 0;
  /** Those that the pool misses. */
  #out = 0;
  readonly #waiting: Deferred<void>[] = [];

  constructor(
    private readonly size: number,
    readonly connectTimeoutMs: number,
  ) {}

  async take(): Promise<void> {
    while (this.#out === this.size) {
      const turn = deferred();
      this.#waiting.push(turn);
      await turn.promise;
    }
    this.#out++;
  }

  giveBack(): void {
    this.#out--;
    this.#waiting.shift()?.resolve();
  }
}

/** A server process: it serves one client, and may outlive it. */
class Backend {
  transaction: { startedAt: number; rows: number[]; lockTimeoutMs: number } | undefined;
  #isEnded = false;
  /** Does not hear that its client is gone. */
  deaf = false;
  /** Has whatever its client waits for fail. */
  cut: () => void = () => undefined;
  /** Ends its wait for a lock, if it is at one. */
  cancel: () => void = () => undefined;
  readonly #ended = deferred();

  constructor(
    readonly pid: number,
    /** Gives its lock back. */
    private readonly unlock: (backend: Backend) => void,
  ) {}

  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  throwIfEnded(): void {
    if (this.#isEnded) throw lost();
  }

  /** By a commit or not: that is the caller's. */
  endTransaction(): void {
    this.transaction = undefined;
    this.unlock(this);
  }

  end(): void {
    this.#isEnded = true;
    this.endTransaction();
    this.#ended.resolve();
  }
}

const lost = () => new ConnectionError('lost', true);
const lockTimeout = () => new DatabaseError('lock timeout', '55P03');
const cancelled = () => new DatabaseError('cancelled', '57014');

function nameOf(text: string): string {
  return /sluice:(\w+)/.exec(text)?.[1] ?? text;
}

/** How far a batch takes the ledger, by the statement before its COMMIT. */
function advanceOf(statement: string): Ledger {
  const [, epoch, seq, position, rows] =
    /sluice_advance\('1', (\d+), (\d+), '(\d+)', (\d+)\)/.exec(statement) ?? [];
  if (position === undefined) throw new Error(`an unexpected statement: ${statement}`);
  return { epoch: Number(epoch), seq: Number(seq), rows: Number(rows), position };
}

/** The field `n` of all rows of a binary COPY, whose last column is the payload. */
function rowsOf(copy: Buffer): number[] {
  const rows: number[] = [];
  for (let at = 19, columns = copy.readInt16BE(at); columns !== -1; columns = copy.readInt16BE(at)) {
    at += 2;
    let field = '';
    for (; columns > 0; columns--) {
      const length = copy.readInt32BE(at);
      field = copy.toString('utf8', at + 5, at + 4 + length);
      at += 4 + length;
    }
    rows.push((JSON.parse(field) as { n: number }).n);
  }
  return rows;
}
