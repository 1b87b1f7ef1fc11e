import type { Db, Session } from '../db.js';
import { TimeoutError } from '../errors/index.js';

export interface Deadline {
  /** What must be done by then, for the error. */
  what: string;
  ms: number;
}

/**
 * Runs `work` on one client of its own. At the deadline, or when `signal` aborts in the middle of a statement, the
 * client's socket is cut: a black-holed one would never answer.
 */
export async function watched<T>(
  db: Db,
  signal: AbortSignal,
  deadline: Deadline,
  work: (session: Session, watch: Watch) => Promise<T>,
): Promise<T> {
  const watch = new Watch(signal, deadline);
  try {
    const session = await db.session(watch.cut);
    watch.cut.addEventListener('abort', () => session.discard());
    try {
      const result = await work(session, watch);
      session.release();
      return result;
    } catch (error) {
      // A COPY that failed leaves its client in no state to be trusted.
      if (watch.state === 'waiting') await session.rollback();
      else session.discard();
      throw watch.cut.aborted ? watch.cut.reason : error;
    }
  } finally {
    watch.stop();
  }
}

/**
 * Decides when a client is cut. An abort finds it
 * - working: cut at once;
 * - waiting for its turn, with nothing on the wire: left alone, since the wait ends by itself and a ROLLBACK is polite;
 * - committing: let finish for a while, since its outcome is worth knowing.
 */
export class Watch {
  state: 'working' | 'waiting' | 'committing' = 'working';
  readonly #cut = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly signal: AbortSignal,
    private readonly deadline: Deadline,
  ) {
    this.#arm(deadline.ms);
    signal.addEventListener('abort', this.#onAbort, { once: true });
    if (signal.aborted) this.#onAbort();
  }

  /** Aborts when the client is to be cut. */
  get cut(): AbortSignal {
    return this.#cut.signal;
  }

  /** Waits for something that is not this client's doing: the deadline stands still. */
  async idle(turn: Promise<void>): Promise<void> {
    clearTimeout(this.#timer);
    this.state = 'waiting';
    await turn;
    this.signal.throwIfAborted();
    this.state = 'working';
    this.#arm(this.deadline.ms);
  }

  committing(): void {
    this.state = 'committing';
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.signal.removeEventListener('abort', this.#onAbort);
  }

  readonly #onAbort = () => {
    if (this.state === 'working') this.#cut.abort(this.signal.reason);
    else if (this.state === 'committing') this.#arm(COMMIT_AFTER_ABORT_MS);
  };

  #arm(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#cut.abort(new TimeoutError(this.deadline.what, ms)), ms);
  }
}

const COMMIT_AFTER_ABORT_MS = 5_000;
