import type { Db, Session } from './db.js';
import { DatabaseError, TimeoutError } from './errors/index.js';

export interface AnswerLimits {
  /** Longest time for a client and an answer, in ms. */
  withinMs: number;
  /** From its abort on only `hurriedMs` are left. */
  hurry?: AbortSignal | undefined;
  hurriedMs?: number;
}

/** Runs `work` on one client. When no answer comes in time the client's socket is cut: a black-holed one never answers. */
export async function answeredWithin<T>(
  db: Db,
  what: string,
  { withinMs, hurry, hurriedMs = withinMs }: AnswerLimits,
  work: (session: Session) => Promise<T>,
): Promise<T> {
  const late = new AbortController();
  const arm = (ms: number) => setTimeout(() => late.abort(new TimeoutError(what, ms)), ms);
  let timer = arm(hurry?.aborted ? hurriedMs : withinMs);
  const onHurry = () => {
    clearTimeout(timer);
    timer = arm(hurriedMs);
  };
  hurry?.addEventListener('abort', onHurry, { once: true });
  try {
    const session = await db.session(late.signal);
    const cut = () => session.discard();
    late.signal.addEventListener('abort', cut);
    try {
      const result = await work(session);
      session.release();
      return result;
    } catch (error) {
      // What the server answered in order has left the client in order.
      if (error instanceof DatabaseError) session.release();
      else session.discard();
      late.signal.throwIfAborted();
      throw error;
    }
  } finally {
    clearTimeout(timer);
    hurry?.removeEventListener('abort', onHurry);
  }
}
