import type { Db } from '../db.js';
import { oneTransaction } from '../on-client.js';
import { purgeKeys } from '../sql/dedupe.js';

const EVERY_MS = 60_000;
const CHUNK = 10_000;
const ANSWER_MS = 30_000;

/** Deletes dedupe keys whose time is over, now and then while keys are written; a failure only leaves them for later. */
export class KeyPurge {
  #next = 0;
  #purging: Promise<void> | undefined;
  #ended = false;

  constructor(private readonly db: Db) {}

  /** To be called when keys were written. */
  remind(): void {
    if (this.#ended || this.#purging || performance.now() < this.#next) return;
    this.#purging = this.#purge()
      .catch(() => undefined)
      .finally(() => {
        this.#next = performance.now() + EVERY_MS;
        this.#purging = undefined;
      });
  }

  /** Ends it for good; resolves when the chunk that is under way is done. */
  async quiet(): Promise<void> {
    this.#ended = true;
    await this.#purging;
  }

  async #purge(): Promise<void> {
    const chunk = () =>
      oneTransaction(this.db, { what: 'purging dedupe keys', ms: ANSWER_MS }, (on) => purgeKeys(on, CHUNK));
    while ((await chunk()) === CHUNK && !this.#ended);
  }
}
