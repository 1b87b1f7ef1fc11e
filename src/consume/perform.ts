import type { CallersClient, Db } from '../db.js';
import { withDeadline } from '../deferred.js';
import { InvalidOptionError, LeaseLostError, PermissionDeniedError } from '../errors/index.js';
import type { SettledBy } from '../sql/settle.js';
import type { Deliveries } from './deliveries.js';
import type { BatchHandler, Handler, TransactionalContext } from './run-options.js';
import type { Work } from './work.js';

/** What a handler made of its messages, in their order: an error for each that failed. */
export type Errors = readonly unknown[];

/** Calls the handler; rejects where all its messages failed. */
export type Perform = (work: Work) => Promise<Errors>;

/** Longest wait for the server's answers at the end of a transaction, in ms. */
const ANSWER_MS = 30_000;

/** One call of a handler. */
export type Call = (work: Work, context: TransactionalContext) => Promise<Errors>;

const DONE: Errors = [undefined];

/** Of one message each. The context's client is there only for who asked for a transaction. */
export function single(handler: Handler<never, TransactionalContext>): Call {
  return async ({ held }, context) => {
    for (const { message } of held) await handler(message as never, context);
    return DONE;
  };
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
    const session = await db.session(work.signal);
    work.onAbandon = () => session.discard();
    try {
      await withDeadline(
        'beginning a transaction',
        ANSWER_MS,
        session.script('begin isolation level read committed'),
      );
      const errors = await call(work, contextOf(work, session.lent));
      const done = work.messages.filter((_, at) => errors[at] === undefined);
      const ending = deliveries.doneMany(by, done, session.lent).then(async (held) => {
        const lost = held.indexOf(false);
        if (lost >= 0) throw new LeaseLostError(done[lost]?.id ?? '');
        await session.commit();
      }, refused);
      await withDeadline('committing', ANSWER_MS, ending);
      session.release();
      return errors;
    } catch (error) {
      await session.rollback();
      throw error;
    }
  };
}

/** The role may not settle messages: that is no failure of the handler's. */
export class SettlementRefused extends Error {
  constructor(override readonly cause: PermissionDeniedError) {
    super(cause.message);
  }
}

function refused(error: unknown): never {
  throw error instanceof PermissionDeniedError ? new SettlementRefused(error) : error;
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
