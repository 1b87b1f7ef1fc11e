import { type Deferred, deferred, settledWithin } from '../deferred.js';

/** For handlers that are at work to end, before one goes on that wanted to be alone. */
const PATIENCE_MS = 10_000;

/**
 * The handlers that are at work in this process. One whose message may end the process begins when no other is at work,
 * and while it lasts no other begins: if the process ends, it is known whose fault that was.
 */
export class AtWork {
  #count = 0;
  /** While one is alone, or waits for the others. */
  #turn: Deferred<void> | undefined;
  /** Settled when none is at work. */
  #quiet: Deferred<void> | undefined;

  constructor(private readonly patienceMs = PATIENCE_MS) {}

  begin(): void {
    this.#count++;
  }

  end(): void {
    if (--this.#count === 0) this.#quiet?.resolve();
  }

  /** Settled when others may begin; nothing when they may at once. */
  get closed(): Promise<void> | undefined {
    return this.#turn?.promise;
  }

  /**
   * Does `work` when no handler is at work, one at a time. Where the others take too long, perhaps since they wait for
   * this one, it goes on beside them.
   * @param work is told whether it is alone; never rejects
   */
  async alone(work: (isAlone: boolean) => Promise<void>): Promise<void> {
    while (this.#turn) await this.#turn.promise;
    const turn = deferred();
    this.#turn = turn;
    if (this.#count > 0) {
      this.#quiet = deferred();
      await settledWithin(this.patienceMs, this.#quiet.promise);
    }
    const isAlone = this.#count === 0;
    const over = () => {
      this.#turn = undefined;
      turn.resolve();
    };
    if (!isAlone) over();
    await work(isAlone);
    if (isAlone) over();
  }
}

/** Of all consumers: whatever ends the process ends the handlers of all. */
export const handlersAtWork = new AtWork();
