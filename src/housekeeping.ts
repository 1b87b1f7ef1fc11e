import type { Db, Queryable } from './db.js';
import { STEP_ENTRIES } from './in-steps.js';
import { oneTransaction } from './on-client.js';
import { retainArchive } from './sql/archive.js';
import { retainDeadLetters } from './sql/dead-letters.js';
import { sweepExhausted, type Sweep } from './sql/exhausted.js';
import { listRetention } from './sql/queue-settings.js';
import { BEGINNING, type Step, type Walk } from './sql/walk.js';
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
 * is bounded, in statements of bounded size; what it leaves is for the next.
 */
export class Housekeeping {
  readonly #pulse: Pulse;
  readonly #stopping = new AbortController();
  #round: Promise<void> | undefined;
  /** Where retention goes on, of walks that are not at their end: what may not go must not hide what comes after it. */
  readonly #walks = new Map<string, Walk>();
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
      const queues = await this.#answer(listRetention);
      if (queues.some(({ archiveSeconds }) => archiveSeconds !== null))
        await attempt(() => this.#retain('archive', retainArchive));
      for (const { queueId, deadLetterSeconds } of queues) {
        if (deadLetterSeconds === null) continue;
        await attempt(() =>
          this.#retain(`dead letters of ${queueId}`, (on, walk, limit) =>
            retainDeadLetters(on, queueId, deadLetterSeconds, walk, limit),
          ),
        );
      }
    });
    this.#told = failed;
  }

  async #sweep(): Promise<void> {
    await this.#answer((on) => sweepExhausted(on, this.options, null, STEP_ENTRIES));
  }

  async #retain(what: string, retain: Retain): Promise<void> {
    let walk: Walk | undefined = this.#walks.get(what) ?? BEGINNING;
    this.#walks.delete(what);
    for (let steps = 0; walk && steps < STEPS_PER_ROUND; steps++) {
      if (this.#stopping.signal.aborted) return;
      const from: Walk = walk;
      const step: Step | undefined = await this.#answer((on) => retain(on, from, STEP_ENTRIES));
      if (!step) return; // somebody else is at it
      walk = step.next;
    }
    if (walk) this.#walks.set(what, { ...walk, until: null });
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

/** One statement of retention; nothing when it is another process' turn. */
type Retain = (on: Queryable, walk: Walk, limit: number) => Promise<Step | undefined>;
