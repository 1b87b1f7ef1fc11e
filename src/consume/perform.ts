import type { CallersClient, Db, Session } from '../db.js';
import { withDeadline } from '../deferred.js';
import { isAnswer, isRefusal } from '../errors/answer.js';
import { recognisable } from '../errors/thrown.js';
import {
  ConnectionError,
  type DatabaseError,
  InvalidOptionError,
  LeaseLostError,
  PermissionDeniedError,
  SluiceError,
} from '../errors/index.js';
import type { Message } from '../message.js';
import { isTransient, retrying } from '../retrying.js';
import type { SettledBy } from '../sql/settle.js';
import type { Deliveries } from './deliveries.js';
import type { BatchHandler, Handler, TransactionalContext } from './run-options.js';
import type { Work } from './work.js';

/** What a handler made of its messages, in their order: an error for each that failed. */
export type Errors = readonly unknown[];

/** Calls the handler; fails where all its messages failed. */
export type Perform = (work: Work) => Promise<Errors> | Errors;

/** Longest wait for the server's answers at the end of a transaction, in ms. */
const ANSWER_MS = 30_000;
/** A handler may do other things for so long between two statements, whatever the role's time-outs say. */
const IDLE_MS = 3_600_000;
const RETRY = { baseMs: 50, maxMs: 2_000 };

/** One call of a handler. */
export type Call = (work: Work, context: TransactionalContext) => Promise<Errors> | Errors;

const DONE: Errors = [undefined];

/** Of one message each. The context's client is there only for who asked for a transaction. */
export function single(handler: Handler<never, TransactionalContext>): Call {
  return ({ held: [only] }, context) => {
    const answer = handler(only?.message as never, context);
    // A handler that is done at once is not waited for.
    return isThenable(answer) ? answer.then(done) : DONE;
  };
}

const done = () => DONE;

function isThenable(answer: unknown): answer is Promise<unknown> {
  return typeof (answer as { then?: unknown } | null | undefined)?.then === 'function';
}

export function batch(handler: BatchHandler<never, TransactionalContext>): Call {
  return async (work, context) => {
    const answer = await handler(work.messages as never[], context);
    if (!Array.isArray(answer)) return Array<undefined>(work.held.length).fill(undefined);
    if (answer.length !== work.held.length) {
      throw new InvalidOptionError(
        'what the batch handler returns',
        `nothing, or an array with an entry for each of its ${work.held.length} messages`,
        `an array of ${answer.length}`,
      );
    }
    return answer.map((entry: unknown) => (entry instanceof Error ? entry : undefined));
  };
}

export function plainly(call: Call): Perform {
  return (work) => call(work, work as unknown as TransactionalContext);
}

/**
 * In a transaction of its own, which also settles what is done. Where a lease was lost meanwhile it is rolled back:
 * somebody else has the message, and what this handler wrote must not be there twice.
 */
export function inTransaction(call: Call, db: Db, deliveries: Deliveries, by: SettledBy): Perform {
  return async (work) => {
    const session = await begun(db, work);
    try {
      const errors = await call(work, contextOf(work, session.lent));
      const done = work.messages.filter(({ settledAs }, at) => errors[at] === undefined && !settledAs);
      const settling = settled(deliveries, by, done, session.lent);
      const refusal = await withDeadline('settling in a transaction', ANSWER_MS, settling);
      if (refusal) {
        const probing = refusedOnes(deliveries, by, done, session, refusal);
        const refused = await withDeadline('settling one by one', ANSWER_MS, probing);
        await session.rollback();
        return work.messages.map(
          (message, at) => errors[at] ?? refused.get(message) ?? new RolledBack(refusal),
        );
      }
      await withDeadline('committing', ANSWER_MS, session.commit()).catch(doubted);
      session.release();
      return errors;
    } catch (thrown) {
      const error = recognisable(thrown);
      await session.leave(error instanceof CommitInDoubt ? error.cause : error);
      throw ended(session, error);
    }
  };
}

/** Statements of the handler on a connection that the server had ended were told nothing of the reason. */
function ended({ lastWords }: Session, error: unknown): unknown {
  if (!lastWords || error instanceof CommitInDoubt || error instanceof SluiceError) return error;
  return new ConnectionError(`the transaction was lost: ${lastWords.message}`, true, { cause: lastWords });
}

/** A session in a transaction. Waiting for one is no failure of the message, as long as its lease is renewed. */
function begun(db: Db, work: Work): Promise<Session> {
  const passes = (error: unknown) => isTransient(error) && !work.reason;
  return retrying({ ...RETRY, signal: work.signal, passes }, async () => {
    const session = await db.session(work.signal);
    work.onAbandon = () => session.discard();
    await withDeadline('beginning a transaction', ANSWER_MS, session.begin('', IDLE_MS)).catch(
      (error: unknown) => {
        session.discard();
        throw error;
      },
    );
    return session;
  });
}

/** @returns why the server refuses to settle one or several of them */
async function settled(
  deliveries: Deliveries,
  by: SettledBy,
  done: readonly Message[],
  client: CallersClient,
): Promise<DatabaseError | undefined> {
  try {
    const held = await deliveries.doneMany(by, done, client);
    const lost = held.indexOf(false);
    if (lost >= 0) throw new RolledBack(new LeaseLostError(done[lost]?.id ?? ''));
    return undefined;
  } catch (error) {
    if (isRefusal(error)) return error;
    throw error instanceof PermissionDeniedError ? new SettlementRefused(error) : error;
  }
}

/** Which of them the server refuses: the halves are tried in transactions that are rolled back, the one that is open too. */
async function refusedOnes(
  deliveries: Deliveries,
  by: SettledBy,
  done: readonly Message[],
  session: Session,
  refusal: DatabaseError,
): Promise<Map<Message, DatabaseError>> {
  if (done.length === 1) return new Map(done.map((one) => [one, refusal]));
  const refused = new Map<Message, DatabaseError>();
  const half = Math.ceil(done.length / 2);
  for (const part of [done.slice(0, half), done.slice(half)]) {
    await session.script('rollback');
    await session.begin();
    const why = await settled(deliveries, by, part, session.lent);
    if (!why) continue;
    for (const one of await refusedOnes(deliveries, by, part, session, why)) refused.set(...one);
  }
  return refused;
}

/** Its transaction could not commit, for another message's sake or since the lease was lost. */
export class RolledBack extends Error {
  constructor(override readonly cause: DatabaseError | LeaseLostError) {
    super(cause.message);
  }
}

/** No answer to COMMIT: what is not held any more when somebody looks was committed. */
export class CommitInDoubt extends Error {
  constructor(override readonly cause: unknown) {
    super('no answer to COMMIT');
  }
}

function doubted(error: unknown): never {
  throw isAnswer(error) ? error : new CommitInDoubt(error);
}

/** The role may not settle messages: that is no failure of the handler's. */
export class SettlementRefused extends Error {
  constructor(override readonly cause: PermissionDeniedError) {
    super(cause.message);
  }
}

function contextOf(work: Work, client: CallersClient): TransactionalContext {
  return {
    client,
    extend: (seconds) => work.extend(seconds),
    get signal() {
      return work.signal;
    },
  };
}
