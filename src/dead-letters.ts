import * as check from './check.js';
import type { Db } from './db.js';
import { Doorbell } from './doorbell.js';
import { inLists, inSteps, STEP_ENTRIES } from './in-steps.js';
import { checkPage, checkTime, PAGE, pageOf, type PageOptions } from './pages.js';
import * as sql from './sql/dead-letters.js';
import type { DeadMessage, Id, IdLike, MessagePage, Queue } from './types.js';

/** Which dead letters are meant: those that fit everything given. */
export interface DeadLetterFilter {
  /** Why they died: 'exhausted', or what a consumer gave as the reason. */
  reason?: string;
  /** Died at that time or later. */
  deadAfter?: Date;
  /** Died earlier than that. */
  deadBefore?: Date;
}

export type ListDeadLettersOptions = DeadLetterFilter & PageOptions;

/** What is to be done to: by id, or by a filter; all of the queue's dead letters only in so many words. */
export type WhichDeadLetters = IdLike | readonly IdLike[] | check.Selection<DeadLetterFilter>;

export const DEAD_LETTER_FILTER: check.Names<DeadLetterFilter> = {
  reason: true,
  deadAfter: true,
  deadBefore: true,
};
export const LIST_DEAD_LETTERS: check.Names<ListDeadLettersOptions> = { ...DEAD_LETTER_FILTER, ...PAGE };

/**
 * The dead letters of a queue: messages that nobody gets any more, each with the reason. They stay until they are
 * replayed or purged, or as long as `admin.setRetention` says.
 *
 * @example
 * const dead = sluice.admin.deadLetters('emails');
 * for (const { id, lastError } of (await dead.list({ limit: 20 })).messages) console.log(id, lastError);
 * await dead.replay({ reason: 'exhausted' });
 */
export class DeadLetters {
  /** @internal use admin.deadLetters() */
  constructor(
    private readonly db: Db,
    private readonly queue: () => Promise<Queue>,
  ) {}

  /**
   * A page of them, newest first. Whatever happens in between, following the cursors shows each one at most once, and
   * passes over none that stays.
   * @throws {QueueNotFoundError}
   */
  async list<T = unknown>(options: ListDeadLettersOptions = {}): Promise<MessagePage<DeadMessage<T>>> {
    const checked = check.options('deadLetters.list()', options, LIST_DEAD_LETTERS);
    const { limit: wanted, cursor, ...filter } = checked;
    const { limit, place } = checkPage({ limit: wanted, cursor });
    return pageOf(await sql.listDeadLetters<T>(this.db, await this.#meant(filter), place, limit + 1), limit);
  }

  /** @throws {QueueNotFoundError} */
  async count(filter: DeadLetterFilter = {}): Promise<number> {
    const checked = check.options('deadLetters.count()', filter, DEAD_LETTER_FILTER);
    return sql.countDeadLetters(this.db, await this.#meant(checked));
  }

  /**
   * Puts dead letters back into the queue under their ids, as if they had been enqueued now: not yet delivered, due at
   * once. By a filter in statements of at most 10,000, each of which is done when it is done; dead letters that come
   * meanwhile are left alone.
   * @param which an id, ids, a filter, or `{ all: true }`
   * @returns how many came back: what is no dead letter of this queue doesn't count
   * @throws {QueueNotFoundError}
   */
  async replay(which: WhichDeadLetters): Promise<number> {
    return this.#change('replay', 'replaying dead letters', which);
  }

  /**
   * Deletes dead letters, as `replay` replays them. Those that a run of a pgqrs workflow refers to stay.
   * @param which an id, ids, a filter, or `{ all: true }`
   * @returns how many were deleted
   * @throws {QueueNotFoundError}
   */
  async purge(which: WhichDeadLetters): Promise<number> {
    return this.#change('purge', 'purging dead letters', which);
  }

  async #change(change: 'replay' | 'purge', what: string, which: WhichDeadLetters): Promise<number> {
    const call = `deadLetters.${change}()`;
    const ids = idsOf(which);
    const meant = await this.#meant(
      ids ? {} : check.selection(call, which as check.Selection<DeadLetterFilter>, DEAD_LETTER_FILTER),
    );
    const doorbell = new Doorbell(this.db, meant.queueId);
    const rung = <T>(count: number, answer: T) => {
      if (change === 'replay' && count > 0) doorbell.ring();
      return answer;
    };
    const count = await (ids
      ? inLists(this.db, what, ids, async (on, some) => {
          const changed = await sql.changeDeadLettersById(on, change, meant.queueId, some);
          return rung(changed, changed);
        })
      : inSteps(this.db, what, async (on, walk) => {
          const step = await sql.changeDeadLetters(on, change, meant, walk, STEP_ENTRIES);
          return rung(step.count, step);
        }));
    await doorbell.quiet();
    return count;
  }

  async #meant({ reason, deadAfter, deadBefore }: DeadLetterFilter): Promise<sql.DeadLettersMeant> {
    const checked = {
      reason: reason === undefined ? null : check.text('reason', reason),
      deadAfter: checkTime('deadAfter', deadAfter),
      deadBefore: checkTime('deadBefore', deadBefore),
    };
    return { queueId: (await this.queue()).id, ...checked };
  }
}

/** Undefined for a filter. */
function idsOf(which: unknown): Id[] | undefined {
  const rule = 'an id, a list of ids, or a filter';
  if (!['string', 'bigint', 'number'].includes(typeof which)) {
    check.kind('which', which, rule, check.isObject);
    if (!check.read('which', rule, () => Array.isArray(which))) return undefined;
  }
  return check.ids(which);
}
