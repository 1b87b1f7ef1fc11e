import type { Db, Queryable } from './db.js';
import { TimeoutError } from './errors/index.js';

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
  work: (on: Queryable) => Promise<T>,
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
      session.discard();
      late.signal.throwIfAborted();
      throw error;
    }
  } finally {
    clearTimeout(timer);
    hurry?.removeEventListener('abort', onHurry);
  }
}
