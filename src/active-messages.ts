import * as check from './check.js';
import type { Db } from './db.js';
import { STEP_ENTRIES } from './in-steps.js';
import { checkDueCursor, checkLimit, cursorOf, PAGE, pageOf, type PageOptions } from './pages.js';
import * as sql from './sql/active-messages.js';
import type { ActiveMessage, ActiveState, MessagePage, Queue } from './types.js';

/** Statements of one page, each of which looks at STEP_ENTRIES messages at most. */
const STEPS_PER_PAGE = 10;

const STATES: readonly ActiveState[] = ['ready', 'delayed', 'leased', 'exhausted'];

/** Which messages that are not archived are meant. */
export interface ActiveFilter {
  /** Only those in that state, as `admin.queueMetrics` counts them. @default all of them */
  state?: ActiveState;
  /**
   * Deliveries after which a message that nobody holds is exhausted: what the consumers have as theirs.
   * @default the configuration's, which is 5
   */
  maxReadCount?: number;
}

export type ListActiveOptions = ActiveFilter & PageOptions;

export const ACTIVE_FILTER: check.Names<ActiveFilter> = { state: true, maxReadCount: true };
export const LIST_ACTIVE: check.Names<ListActiveOptions> = { ...ACTIVE_FILTER, ...PAGE };

/**
 * The messages of a queue that are not archived: what is due, what waits, and what consumers hold.
 *
 * @example
 * for (const { id, vt } of (await sluice.admin.messages('emails').list({ state: 'delayed' })).messages)
 *   console.log(id, vt);
 */
export class ActiveMessages {
  /** @internal use admin.messages() */
  constructor(
    private readonly db: Db,
    private readonly queue: () => Promise<Queue>,
    private readonly maxReadCount: number,
  ) {}

  /**
   * A page of them, in the order of delivery: what has been due for the longest time comes first. Following the cursors
   * shows each message that stays as it is once; one that is claimed, released or rescheduled meanwhile moves in that
   * order, and may come again or be missed.
   *
   * With a `state` a page looks at 100,000 messages of the queue at most: where few of them are meant it is short, even
   * empty, and the end is where there is no cursor.
   * @throws {QueueNotFoundError}
   */
  async list<T = unknown>(options: ListActiveOptions = {}): Promise<MessagePage<ActiveMessage<T>>> {
    const checked = check.options('messages.list()', options, LIST_ACTIVE);
    const { limit: wanted, cursor, ...filter } = checked;
    const limit = checkLimit(wanted);
    let after = checkDueCursor(cursor);
    const meant = await this.#meant(filter);
    const found: Awaited<ReturnType<typeof sql.listActive<T>>>['found'] = [];
    for (let steps = 0; steps < STEPS_PER_PAGE; steps++) {
      // One more than wanted says whether there is another page. Often the first ones that it looks at are meant.
      const missing = limit + 1 - found.length;
      const entries = steps === 0 ? missing : STEP_ENTRIES;
      const step = await sql.listActive<T>(this.db, meant, after, missing, entries);
      found.push(...step.found);
      if (found.length > limit || !step.last) return pageOf(found, limit);
      after = step.last;
    }
    return { messages: found.map(({ message }) => message), cursor: after ? cursorOf(after) : undefined };
  }

  /**
   * Looks at every message of the queue that is not archived, in one statement. `admin.queueMetrics` counts all states
   * at once.
   * @throws {QueueNotFoundError}
   */
  async count(filter: ActiveFilter = {}): Promise<number> {
    return sql.countActive(
      this.db,
      await this.#meant(check.options('messages.count()', filter, ACTIVE_FILTER)),
    );
  }

  async #meant({ state, maxReadCount = this.maxReadCount }: ActiveFilter): Promise<sql.ActiveMeant> {
    const checked = {
      state: state === undefined ? null : check.oneOf('state', state, STATES),
      maxReadCount: check.integer('maxReadCount', maxReadCount, { min: 1, max: 2_147_483_647 }),
    };
    return { queueId: (await this.queue()).id, ...checked };
  }
}
