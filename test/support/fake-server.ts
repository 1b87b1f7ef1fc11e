import type { Db, Session } from '../../src/db.js';
import { type Deferred, deferred, orAbort, withDeadline } from '../../src/deferred.js';
import { isAnswer } from '../../src/errors/answer.js';
import { ConnectionError, DatabaseError, PermissionDeniedError } from '../../src/errors/index.js';
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
  seq: number;
  rows: number;
  position: string;
}

/** The same times as in src/. */
const URGENT_TIMEOUT_MS = 5_000;
const ROLLBACK_TIMEOUT_MS = 5_000;

/**
 * As much of a server, and of the pool in front of it, as the batches of one stream need: transactions, COPY, the
 * ledger's row with its lock, and backends that live longer than their clients.
 */
export class FakeServer {
  /** The rows that are in the table, in the order of their commits. */
  readonly committed: { n: number; vt: number }[] = [];
  /** Clients that somebody has. One that comes after nobody waits for it any more is not among them. */
  inUse = 0;
  /** Clients that the pool misses. */
  #out = 0;
  ledger: Ledger | undefined;
  #clock = 0;
  #holder: Backend | undefined;
  #freed = deferred();
  readonly #backends = new Map<number, Backend>();
  readonly #waiting: Deferred<void>[] = [];

  constructor(private readonly options: FakeServerOptions) {}

  /** For what only ever calls these few methods. */
  get db(): Db {
    const db: Pick<Db, 'schema' | 'urgent' | 'session'> = {
      schema: 'fake',
      urgent: {
        schema: 'fake',
        session: (signal) => this.#session(signal),
        query: async <Row>(text: string, values: readonly unknown[] = []) => {
          const backend = this.#backend();
          const asked = this.#exchange(backend, nameOf(text), () => this.#query(backend, text, values));
          return (await withDeadline(nameOf(text), URGENT_TIMEOUT_MS, asked)) as Row[];
        },
      },
      session: (signal) => this.#session(signal),
    };
    return db as Db;
  }

  async #session(signal?: AbortSignal): Promise<Session> {
    signal?.throwIfAborted();
    const connecting = this.#connect();
    try {
      const session = await orAbort(connecting, signal);
      this.inUse++;
      return session;
    } catch (error) {
      if (signal?.aborted) connecting.then(() => this.#giveBack()).catch(() => undefined);
      throw error;
    }
  }

  async #connect(): Promise<Session> {
    while (this.#out === this.options.clients) {
      const turn = deferred();
      this.#waiting.push(turn);
      await turn.promise;
    }
    this.#out++;
    const backend = this.#backend();
    try {
      await this.#exchange(backend, 'connect', () => undefined);
    } catch (error) {
      this.#giveBack();
      throw error;
    }
    return this.#sessionOf(backend);
  }

  #sessionOf(backend: Backend): Session {
    let given = false;
    let broken = false;
    const give = () => {
      if (given) return;
      given = true;
      this.inUse--;
      this.#giveBack();
    };
    const exchange = <T>(what: string, effect: (fate: Fate) => T | Promise<T>) =>
      this.#exchange(backend, what, effect);
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
      commit: (lastStatement) =>
        exchange('commit', (fate) => this.#commit(backend, lastStatement ?? '', fate)),
      leave: async (error) => {
        if (!isAnswer(error) || broken) session.discard();
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
      release: give,
      discard: () => {
        give();
        backend.cut();
        // A server notices sooner or later, unless the network is silent.
        if (!backend.deaf) void this.options.step('the backend notices').then(() => backend.end());
      },
    };
    return session as Session;
  }

  #giveBack(): void {
    this.#out--;
    this.#waiting.shift()?.resolve();
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
    if (name === 'select_stream') return this.ledger ? [{ ...this.ledger }] : [];
    if (name === 'end_transaction') {
      const [pid, startedAt] = values as [number, Transaction['startedAtMicros']];
      const meant = this.#backends.get(pid);
      if (meant?.transaction && String(meant.transaction.startedAt) === startedAt) meant.end();
      return [];
    }
    // Held to the end of the transaction, if there is one.
    await this.#lock(backend, backend.transaction?.lockTimeoutMs ?? URGENT_TIMEOUT_MS);
    const { ledger } = this;
    if (!backend.transaction) backend.endTransaction();
    if (name === 'delete_stream') this.ledger = undefined;
    else if (name === 'fence_stream' && ledger) ledger.epoch = Number(values[1]) + 1;
    else if (name !== 'lock_stream' && name !== 'fence_stream')
      throw new Error(`an unexpected statement: ${text}`);
    return ledger ? [{ ...ledger }] : [];
  }

  async #commit(backend: Backend, lastStatement: string, fate: Fate): Promise<void> {
    const [, epoch, seq, position, rows] =
      /sluice_advance\('1', (\d+), (\d+), '(\d+)', (\d+)\)/.exec(lastStatement) ?? [];
    const { transaction } = backend;
    if (!transaction) throw new DatabaseError('COMMIT was answered with ROLLBACK', '40000');
    await this.#lock(backend, transaction.lockTimeoutMs);
    const { ledger } = this;
    if (ledger?.epoch !== Number(epoch) || ledger.seq !== Number(seq) - 1) {
      backend.endTransaction();
      throw new DatabaseError('the stream has moved', RAISED.streamMoved);
    }
    await this.options.step('commit: flush');
    if (fate === 'stuck') await backend.ended;
    backend.throwIfEnded();
    ledger.seq++;
    ledger.rows += Number(rows);
    ledger.position = String(position);
    this.committed.push(...transaction.rows.map((n) => ({ n, vt: transaction.startedAt })));
    backend.endTransaction();
  }

  async #lock(backend: Backend, timeoutMs: number): Promise<void> {
    const late = deferred();
    const timer = timeoutMs > 0 ? setTimeout(() => late.reject(lockTimeout()), timeoutMs) : undefined;
    try {
      while (this.#holder && this.#holder !== backend) {
        await Promise.race([this.#freed.promise, backend.ended, late.promise]);
        backend.throwIfEnded();
      }
      this.#holder = backend;
    } catch (error) {
      backend.endTransaction();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  #unlock(backend: Backend): void {
    if (this.#holder !== backend) return;
    this.#holder = undefined;
    this.#freed.resolve();
    this.#freed = deferred();
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

function nameOf(text: string): string {
  return /sluice:(\w+)/.exec(text)?.[1] ?? text;
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
