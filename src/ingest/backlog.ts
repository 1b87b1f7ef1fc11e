import type { BacklogEvent } from '../../streams/sink.js';
import { sleep } from '../backoff.js';
import type { Db } from '../db.js';
import { oneTransaction } from '../on-client.js';
import { isTransient } from '../retrying.js';
import { countReady } from '../sql/backlog.js';
import type { Id } from '../types.js';

const ANSWER_MS = 30_000;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 2_000;
/** A queue that was full has room again below this share: or each message that is taken would let one in. */
const ROOM_AGAIN = 0.9;
/** As in Config. */
const DEFAULT_MAX_READ_COUNT = 5;

/**
 * Holds a stream back while its queue is full. Counting is bounded but not free, so what a count leaves room for is
 * used up before the next one: with several streams each may pass the limit by what it sends between two counts.
 */
export class Backlog {
  #room = 0;
  /** Rows on their way: no count sees them. */
  #underway = 0;

  constructor(
    private readonly db: Db,
    private readonly queueId: Id,
    private readonly max: number,
    private readonly maxReadCount = DEFAULT_MAX_READ_COUNT,
  ) {}

  /** Resolves when so many rows may be sent, a tenth of `max` at most. */
  async admit(rows: number, signal: AbortSignal, onWait: (event: BacklogEvent) => void): Promise<void> {
    let limit = this.max;
    for (let delayMs = FIRST_WAIT_MS; this.#room < rows; delayMs = Math.min(delayMs * 2, LONGEST_WAIT_MS)) {
      // Read before they are counted: a batch that commits in between counts twice rather than not at all.
      const underway = this.#underway;
      const ready = await this.#count(signal);
      this.#room = ready + underway < limit ? this.max - ready - underway : 0;
      if (this.#room >= rows) break;
      limit = this.max * ROOM_AGAIN;
      onWait({ ready, delayMs });
      await sleep(delayMs, signal);
    }
    this.#room -= rows;
    this.#underway += rows;
  }

  /** So many rows of those that were admitted are in the queue. */
  arrived(rows: number): void {
    this.#underway -= rows;
  }

  /** A count that fails is made again: until then the queue may be full. */
  async #count(signal: AbortSignal): Promise<number> {
    const limits = { what: 'counting ready messages', ms: ANSWER_MS, signal };
    const atMost = this.max + 1;
    try {
      return await oneTransaction(this.db, limits, (on) =>
        countReady(on, this.queueId, this.maxReadCount, atMost),
      );
    } catch (error) {
      signal.throwIfAborted();
      if (isTransient(error)) return atMost;
      throw error;
    }
  }
}
