import { createHash } from 'node:crypto';
import { sleep } from './backoff.js';
import type { Queryable } from './db.js';
import { notify } from './sql/notify.js';
import type { Id } from './types.js';

/** Where a queue's wake-ups are sent: hashed, since LISTEN cuts names at 63 bytes and a schema may take them all. */
export function channelOf(schemaName: string, queueId: Id): string {
  return `sluice_${createHash('sha256').update(`${schemaName}\0${queueId}`).digest('hex').slice(0, 32)}`;
}

/**
 * Tells listening consumers that a queue has new messages: after the commit and in a statement of its own, because a
 * NOTIFY inside a transaction holds a global lock through the commit's WAL flush. Rings at once when none is on its
 * way, then at most once per `intervalMs`, and always once after the last commit. A ring is only a hint: one that
 * fails is forgotten, since consumers poll too.
 */
export class Doorbell {
  /** Where it rings. */
  readonly channel: string;
  #ringing: Promise<void> | undefined;
  /** Commits have come that no notification follows yet. */
  #rung = false;
  /** No notification before then. */
  #next = 0;

  constructor(
    private readonly db: { schemaName: string; urgent: Queryable },
    queueId: Id,
    private readonly intervalMs = 5,
  ) {
    this.channel = channelOf(db.schemaName, queueId);
  }

  ring(): void {
    this.#rung = true;
    this.#ringing ??= this.#ringUntilQuiet();
  }

  /** Resolves when the last ring has been sent. */
  async quiet(): Promise<void> {
    await this.#ringing;
  }

  async #ringUntilQuiet(): Promise<void> {
    while (this.#rung) {
      const early = this.#next - performance.now();
      if (early > 0) await sleep(early);
      this.#rung = false;
      this.#next = performance.now() + this.intervalMs;
      await notify(this.db.urgent, this.channel).catch(() => undefined);
    }
    this.#ringing = undefined; // in the same breath as the last look, or a ring in between would be lost
  }
}
