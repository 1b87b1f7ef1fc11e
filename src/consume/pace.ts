/** Messages are claimed ahead for so long. */
const AHEAD_MS = 100;
const MAX_AHEAD = 6_000;
/** What counts of the past: with every so many ms of work its weight falls to a third. */
const MEMORY_MS = 200;

/**
 * How fast handlers are, and so how many messages are worth holding ahead of them: the time that slots were taken,
 * divided by the handlers that have ended in it. Handlers still at work count with the time that they have taken so
 * far: of some that hang none ever ends, and among many short ones a few long ones take most of the time. Only time
 * with work counts, so that an empty queue does not look like slow handlers.
 */
export class Pace {
  #running = 0;
  /** As if one handler had taken just that: a run begins with few messages. */
  #slotMs = AHEAD_MS;
  #ended = 1;
  #atMs = performance.now();

  constructor(
    private readonly atOnce: number,
    private readonly batchSize = 1,
  ) {}

  began(now = performance.now()): void {
    this.#passTo(now);
    this.#running++;
  }

  ended(now = performance.now()): void {
    this.#passTo(now);
    this.#running--;
    this.#ended++;
  }

  /** Messages that the handlers will soon be done with, in whole batches; at least one for each that works at once. */
  ahead(now = performance.now()): number {
    this.#passTo(now);
    const soon = Math.min((this.atOnce * AHEAD_MS * this.#ended) / this.#slotMs, MAX_AHEAD);
    return Math.max(this.atOnce, Math.round(soon / this.batchSize) * this.batchSize);
  }

  #passTo(now: number): void {
    const ms = now - this.#atMs;
    this.#atMs = now;
    if (this.#running === 0 || ms <= 0) return;
    const forgotten = -Math.expm1(-ms / MEMORY_MS);
    this.#slotMs += this.#running * MEMORY_MS * forgotten - this.#slotMs * forgotten;
    this.#ended -= this.#ended * forgotten;
  }
}
