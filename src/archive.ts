import * as check from './check.js';
import type { Db } from './db.js';
import { inLists, inSteps, STEP_ENTRIES } from './in-steps.js';
import { checkIdCursor, checkLimit, checkTime, MAX_SECONDS, PAGE, type PageOptions } from './pages.js';
import * as sql from './sql/archive.js';
import type { IdLike, MessagePage, Queue, StoredMessage } from './types.js';

/** Statements of one page, each of which looks at STEP_ENTRIES messages at most. */
const STEPS_PER_PAGE = 10;

/** Which messages of an archive are meant. */
export interface ArchiveFilter {
  /** Archived at that time or later. */
  archivedAfter?: Date;
  /** Archived earlier than that. */
  archivedBefore?: Date;
}

export type ListArchiveOptions = ArchiveFilter & PageOptions;

export const ARCHIVE_FILTER: check.Names<ArchiveFilter> = { archivedAfter: true, archivedBefore: true };
export const LIST_ARCHIVE: check.Names<ListArchiveOptions> = { ...ARCHIVE_FILTER, ...PAGE };

export interface PurgeArchiveOptions {
  /** Only what was archived that long ago, in seconds. */
  olderThanSeconds: number;
}

export const PURGE_ARCHIVE: check.Names<PurgeArchiveOptions> = { olderThanSeconds: true };

/**
 * The archive of a queue: messages that were done. They stay until they are purged, or as long as `admin.setRetention`
 * says. Dead letters, which are archived too, are not among them: for those there is `admin.deadLetters()`.
 *
 * @example
 * await sluice.admin.archive('emails').purge({ olderThanSeconds: 7 * 86_400 });
 */
export class Archive {
  /** @internal use admin.archive() */
  constructor(
    private readonly db: Db,
    private readonly queue: () => Promise<Queue>,
  ) {}

  /**
   * A page of it, the highest ids, which were enqueued last, first. Whatever happens in between, following the cursors
   * shows each message at most once, and passes over none that stays.
   *
   * A page looks at 100,000 messages of all queues and states at most: where few of them are meant it is short, even
   * empty, and the end is where there is no cursor.
   * @throws {QueueNotFoundError}
   * @example
   * let cursor: string | undefined;
   * do {
   *   const page = await archive.list({ cursor });
   *   for (const { id } of page.messages) console.log(id);
   *   cursor = page.cursor;
   * } while (cursor);
   */
  async list<T = unknown>(options: ListArchiveOptions = {}): Promise<MessagePage<StoredMessage<T>>> {
    const { limit: wanted, cursor, ...filter } = check.options('archive.list()', options, LIST_ARCHIVE);
    const limit = checkLimit(wanted);
    let before = checkIdCursor(cursor);
    const meant = await this.#meant(filter);
    const messages: StoredMessage<T>[] = [];
    for (let steps = 0; steps < STEPS_PER_PAGE; steps++) {
      // One more than wanted says whether there is another page.
      const missing = limit + 1 - messages.length;
      const step = await sql.listArchive<T>(this.db, meant, before, missing, STEP_ENTRIES);
      messages.push(...step.messages);
      if (messages.length > limit)
        return { messages: messages.slice(0, limit), cursor: messages[limit - 1]?.id };
      if (step.last === null) return { messages, cursor: undefined };
      before = step.last;
    }
    return { messages, cursor: before ?? undefined };
  }

  /** Reads the whole messages table. @throws {QueueNotFoundError} */
  async count(filter: ArchiveFilter = {}): Promise<number> {
    return sql.countArchive(
      this.db,
      await this.#meant(check.options('archive.count()', filter, ARCHIVE_FILTER)),
    );
  }

  /**
   * Deletes what was done, walking over all messages in statements of 10,000, each of which is done when it is done.
   * Messages that a run
   * of a pgqrs workflow refers to stay, and so does what is archived meanwhile.
   * @param which how long ago, or `{ all: true }`
   * @returns how many were deleted
   * @throws {QueueNotFoundError}
   */
  async purge(which: check.Selection<PurgeArchiveOptions>): Promise<number> {
    const { olderThanSeconds = 0 } = check.selection('archive.purge()', which, PURGE_ARCHIVE);
    check.number('olderThanSeconds', olderThanSeconds, { min: 0, max: MAX_SECONDS });
    const { id } = await this.queue();
    return inSteps(this.db, 'purging the archive', (on, walk) =>
      sql.purgeArchive(on, id, olderThanSeconds, walk, STEP_ENTRIES),
    );
  }

  /**
   * Deletes messages of the archive by their ids.
   * @returns how many were deleted: what is not in this archive, or what a workflow run refers to, doesn't count
   * @throws {QueueNotFoundError}
   */
  async delete(ids: IdLike | readonly IdLike[]): Promise<number> {
    const checked = check.ids(ids);
    const queue = await this.queue();
    return inLists(this.db, 'deleting archived messages', checked, (on, some) =>
      sql.deleteArchived(on, queue.id, some),
    );
  }

  async #meant({ archivedAfter, archivedBefore }: ArchiveFilter): Promise<sql.ArchivedMeant> {
    const times = {
      archivedAfter: checkTime('archivedAfter', archivedAfter),
      archivedBefore: checkTime('archivedBefore', archivedBefore),
    };
    return { queueId: (await this.queue()).id, ...times };
  }
}
