import type { Place } from '../sql/claim.js';

/** Longest time without a claim from the very beginning of the queue. */
const FROM_THE_BEGINNING_MS = 1_000;

/**
 * Where a claim begins to look. Claimed and settled messages stay in the index until they are vacuumed, which a
 * transaction that is held open prevents: a claim that begins behind the last one does not walk over them again.
 *
 * Messages may still come before it: committed late by a long transaction, given back by another process, written by
 * the clock of a pgqrs client. No grace period would cover that, so a claim from the beginning comes once a second,
 * whatever the others bring, and whenever one has found less than it asked for.
 */
export class Floor {
  #place: Place | undefined;
  #fromBeginningAt = -Infinity;

  /** For the claim that begins now; undefined: from the beginning. */
  next(now = performance.now()): Place | undefined {
    if (this.#place && now - this.#fromBeginningAt < FROM_THE_BEGINNING_MS) return this.#place;
    this.#fromBeginningAt = now;
    return undefined;
  }

  /** A claim brought all that it asked for, the last of it from this place. */
  moveTo(place: Place): void {
    this.#place = place;
  }

  /** Something may have come before it. */
  reset(): void {
    this.#place = undefined;
  }
}
