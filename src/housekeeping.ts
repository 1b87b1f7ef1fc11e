import type { Db, Queryable } from './db.js';
import { STEP_ENTRIES } from './in-steps.js';
import { oneTransaction } from './on-client.js';
import { retainArchive } from './sql/archive.js';
import { retainDeadLetters } from './sql/dead-letters.js';
import { sweepExhausted, type Sweep } from './sql/exhausted.js';
import { listRetention } from './sql/queue-settings.js';
import { Pulse } from './worker-pulse.js';

/** Statements that one round grants the archive of all queues, and the dead letters of each. */
const STEPS_PER_ROUND = 10;
/** Longest wait for the answer to a statement. */
const ANSWER_MS = 30_000;
/** The same once it is to stop. */
const HURRIED_ANSWER_MS = 5_000;

export interface HousekeepingOptions extends Sweep {
  db: Db;
  /** Between two rounds, in seconds. */
  intervalSeconds: number;
  /** Told each cause once, and again when it comes back after a round without it. */
  onError: (error: Error) => void;
}

/**
 * What somebody must do now and then: bury messages of the queue that were delivered as often as allowed, and delete
 * what any queue has kept for long enough. Every consumer does it; what one is at, the others leave alone. Each round
 * is bounded, in statements of bounded size. Retention goes on where any process has stopped: its places are in the
 * database.
 */
export class Housekeeping {
  readonly #pulse: Pulse;
  readonly #stopping = new AbortController();
  #round: Promise<void> | undefined;
  /** Errors of the last round. */
  #told = new Set<string>();

  constructor(private readonly options: HousekeepingOptions) {
    this.#pulse = new Pulse(options.intervalSeconds * 1_000, () => this.#beat());
  }

  /** Ends it for good; resolves when the statement that is under way is done. Twice is fine. */
  async stop(): Promise<void> {
    this.#pulse.stop();
    this.#stopping.abort();
    await this.#round;
  }

  async #beat(): Promise<void> {
    if (this.#stopping.signal.aborted) return;
    this.#round = this.#clean();
    await this.#round;
  }

  async #clean(): Promise<void> {
    const failed = new Set<string>();
    const attempt = async (work: () => Promise<void>) => {
      if (this.#stopping.signal.aborted) return;
      await work().catch((error: unknown) => this.#tell(error as Error, failed));
    };
    await attempt(() => this.#sweep());
    await attempt(async () => {
      const { intervalSeconds } = this.options;
      const queues = await this.#answer(listRetention);
      if (queues.some(({ archiveSeconds }) => archiveSeconds !== null))
        await attempt(() => this.#retain((on) => retainArchive(on, intervalSeconds, STEP_ENTRIES)));
      for (const { queueId, deadLetterSeconds } of queues) {
        if (deadLetterSeconds === null) continue;
        const meant = { queueId, olderThanSeconds: deadLetterSeconds };
        await attempt(() =>
          this.#retain((on) => retainDeadLetters(on, meant, intervalSeconds, STEP_ENTRIES)),
        );
      }
    });
    this.#told = failed;
  }

  async #sweep(): Promise<void> {
    await this.#answer((on) => sweepExhausted(on, this.options, null, STEP_ENTRIES));
  }

  /** @param step one of the walk; says whether there is more to do for this process now */
  async #retain(step: (on: Queryable) => Promise<boolean>): Promise<void> {
    for (let steps = 0, more = true; more && steps < STEPS_PER_ROUND; steps++) {
      if (this.#stopping.signal.aborted) return;
      more = await this.#answer(step);
    }
  }

  #answer<T>(work: (on: Queryable) => Promise<T>): Promise<T> {
    const { signal } = this.#stopping;
    const limits = { what: 'housekeeping', ms: ANSWER_MS, signal, graceMs: HURRIED_ANSWER_MS };
    return oneTransaction(this.options.db, limits, work);
  }

  #tell(error: Error, failed: Set<string>): void {
    const cause = `${error.name}: ${error.message}`;
    const known = this.#told.has(cause) || failed.has(cause);
    failed.add(cause);
    // Not in the middle of the round: a listener that throws must not break that.
    if (!known && !this.#stopping.signal.aborted) queueMicrotask(() => this.options.onError(error));
  }
}
