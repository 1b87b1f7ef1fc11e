import type { Session } from './db.js';
import { DatabaseError, TimeoutError } from './errors/index.js';
import { isUndone } from './errors/sqlstate.js';
import { onAbort } from './on-abort.js';
import { retrying } from './retrying.js';

/** What has clients: a database, or the small pool beside its work. */
export interface Clients {
  /** A client, unless the signal aborts before there is one. */
  session(signal?: AbortSignal): Promise<Session>;
}

export interface ClientLimits {
  /** What is done, for the error. */
  what: string;
  /** Longest time for a client and all answers, in ms. Infinity sets none. */
  ms: number;
  /** Its abort ends the work sooner: see `Cut`. */
  signal?: AbortSignal | undefined;
  /** Time left after the abort for what is on its way, in ms. @default 0 */
  graceMs?: number;
}

/**
 * Runs `work` on one client of its own, within a time. When that is over, or the signal has ended it, the client is
 * given up: a black-holed one would never answer. Otherwise it goes back in order, whatever the server answered.
 */
export async function onClient<T>(
  clients: Clients,
  limits: ClientLimits,
  work: (session: Session, cut: Cut) => Promise<T>,
): Promise<T> {
  const cut = new Cut(limits);
  try {
    const session = await clients.session(cut.signal);
    cut.signal.addEventListener('abort', () => session.discard(), { once: true });
    try {
      const result = await work(session, cut);
      session.release();
      return result;
    } catch (error) {
      const failure = cut.signal.aborted ? (cut.signal.reason as Error) : error;
      cut.stop();
      await session.leave(error);
      throw failure;
    }
  } finally {
    cut.stop();
  }
}

const UNDONE = { retries: 10, baseMs: 5, maxMs: 250 };

/**
 * As `onClient`, for work that is one transaction: done again where the server has undone it for another's sake. Not
 * everybody's transactions are READ COMMITTED.
 */
export function oneTransaction<T>(
  clients: Clients,
  limits: ClientLimits,
  work: (session: Session) => Promise<T>,
): Promise<T> {
  const passes = (error: unknown) => error instanceof DatabaseError && isUndone(error.sqlState);
  const { ms: withinMs, signal: hurry } = limits;
  return retrying({ ...UNDONE, withinMs, passes, ...(hurry && { hurry }) }, (ms) =>
    onClient(clients, { ...limits, ms }, work),
  );
}

/**
 * Decides when a client is given up. An abort of the caller's finds it
 * - working: given up after the grace, at once where there is none;
 * - waiting for its turn, with nothing on the wire: left alone, since the wait ends by itself and a ROLLBACK is polite;
 * - committing: let finish for a while, since its outcome is worth knowing.
 */
export class Cut {
  state: 'working' | 'waiting' | 'committing' = 'working';
  readonly #given = new AbortController();
  readonly #stopListening: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #end = 0;

  constructor(private readonly limits: ClientLimits) {
    const { ms, signal } = limits;
    this.#arm(ms);
    this.#stopListening = signal && onAbort(signal, () => this.#aborted());
  }

  /** Aborts when the client is given up. */
  get signal(): AbortSignal {
    return this.#given.signal;
  }

  /** Waits for something that is not this client's doing: its time stands still. */
  async idle(turn: Promise<void>): Promise<void> {
    clearTimeout(this.#timer);
    this.state = 'waiting';
    await turn;
    this.limits.signal?.throwIfAborted();
    this.state = 'working';
    this.#arm(this.limits.ms);
  }

  committing(): void {
    this.state = 'committing';
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#stopListening?.();
  }

  #aborted(): void {
    const { signal, graceMs = 0 } = this.limits;
    if (this.state === 'waiting') return;
    const leftMs = this.state === 'committing' ? COMMIT_AFTER_ABORT_MS : graceMs;
    if (leftMs === 0) this.#given.abort(signal?.reason);
    else this.#arm(Math.min(leftMs, this.#end - performance.now()));
  }

  #arm(ms: number): void {
    clearTimeout(this.#timer);
    this.#end = performance.now() + ms;
    if (ms === Infinity) return;
    this.#timer = setTimeout(() => this.#given.abort(new TimeoutError(this.limits.what, ms)), ms);
  }
}

const COMMIT_AFTER_ABORT_MS = 5_000;
