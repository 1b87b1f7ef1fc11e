import type { Db, Session } from './db.js';
import { deferred } from './deferred.js';
import { isAnswer } from './errors/answer.js';
import { DatabaseError, SluiceError, TimeoutError } from './errors/index.js';
import { onAbort } from './on-abort.js';

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
  const late = deferred<never>();
  const arm = (ms: number) => setTimeout(() => late.reject(new TimeoutError(what, ms)), ms);
  let timer = arm(hurry?.aborted ? hurriedMs : withinMs);
  const stopHurrying =
    hurry &&
    !hurry.aborted &&
    onAbort(hurry, () => {
      clearTimeout(timer);
      timer = arm(hurriedMs);
    });
  try {
    const session = await clientWithin(db, late.promise);
    try {
      const result = await Promise.race([work(session), late.promise]);
      session.release();
      return result;
    } catch (error) {
      // What the server answered in order has left the client in order, unless it was its last word.
      if (error instanceof SluiceError && isAnswer(error) && !endsConnection(error)) session.release();
      else session.discard();
      throw error;
    }
  } finally {
    clearTimeout(timer);
    if (stopHurrying) stopHurrying();
  }
}

async function clientWithin(db: Db, late: Promise<never>): Promise<Session> {
  const connecting = db.session();
  try {
    return await Promise.race([connecting, late]);
  } catch (error) {
    // A request for a client cannot be withdrawn: hand it back when it comes.
    connecting.then((session) => session.release()).catch(() => undefined);
    throw error;
  }
}

function endsConnection(error: unknown): boolean {
  return error instanceof DatabaseError && error.endsConnection;
}
