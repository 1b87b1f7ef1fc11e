import * as check from './check.js';
import type { Db } from './db.js';
import { Doorbell } from './doorbell.js';
import { inLists, inSteps, STEP_ENTRIES } from './in-steps.js';
import { checkKnownName } from './known-name.js';
import { checkPage, checkTime, pageOf, type PageOptions } from './pages.js';
import * as sql from './sql/dead-letters.js';
import type { DeadMessage, Id, MessagePage, Queue } from './types.js';

/** Which dead letters are meant: those that fit everything given; all of the queue's where nothing is. */
export interface DeadLetterFilter {
  /** Why they died: 'exhausted', or what a consumer gave as the reason. */
  reason?: string;
  /** Died at that time or later. */
  deadAfter?: Date;
  /** Died earlier than that. */
  deadBefore?: Date;
}

export type ListDeadLettersOptions = DeadLetterFilter & PageOptions;

const FILTER_NAMES = ['reason', 'deadAfter', 'deadBefore'];

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
    const { limit: wanted, cursor, ...filter } = options;
    const { limit, place } = checkPage({ limit: wanted, cursor });
    return pageOf(await sql.listDeadLetters<T>(this.db, await this.#meant(filter), place, limit + 1), limit);
  }

  /** @throws {QueueNotFoundError} */
  async count(filter: DeadLetterFilter = {}): Promise<number> {
    return sql.countDeadLetters(this.db, await this.#meant(filter));
  }

  /**
   * Puts dead letters back into the queue under their ids, as if they had been enqueued now: not yet delivered, due at
   * once. By a filter in statements of at most 10,000, each of which is done when it is done; dead letters that come
   * meanwhile are left alone.
   * @param which an id, ids, or a filter; `{}` means all
   * @returns how many came back: what is no dead letter of this queue doesn't count
   * @throws {QueueNotFoundError}
   */
  async replay(which: Id | readonly Id[] | DeadLetterFilter): Promise<number> {
    return this.#change('replay', 'replaying dead letters', which);
  }

  /**
   * Deletes dead letters, as `replay` replays them. Those that a run of a pgqrs workflow refers to stay.
   * @param which an id, ids, or a filter; `{}` means all
   * @returns how many were deleted
   * @throws {QueueNotFoundError}
   */
  async purge(which: Id | readonly Id[] | DeadLetterFilter): Promise<number> {
    return this.#change('purge', 'purging dead letters', which);
  }

  async #change(
    change: 'replay' | 'purge',
    what: string,
    which: Id | readonly Id[] | DeadLetterFilter,
  ): Promise<number> {
    const ids = idsOf(which);
    const meant = await this.#meant(ids ? {} : (which as DeadLetterFilter));
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

  async #meant(filter: DeadLetterFilter): Promise<sql.DeadLettersMeant> {
    check.kind('filter', filter, 'an id, a list of ids, or a filter', isFilter);
    // A name that nobody knows would leave everything to be purged.
    for (const name of Object.keys(filter)) checkKnownName('filter', name, FILTER_NAMES);
    const { reason, deadAfter, deadBefore } = filter;
    const checked = {
      reason: reason === undefined ? null : check.text('reason', reason),
      deadAfter: checkTime('deadAfter', deadAfter),
      deadBefore: checkTime('deadBefore', deadBefore),
    };
    return { queueId: (await this.queue()).id, ...checked };
  }
}

function idsOf(which: unknown): readonly Id[] | undefined {
  if (typeof which === 'string') return [check.id('id', which)];
  if (!Array.isArray(which)) return undefined;
  return which.map((id, index) => check.id(`ids[${index}]`, id));
}

function isFilter(value: unknown): value is DeadLetterFilter {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
