/** After each success by that share of it: a server that is always slow refuses one try in some. */
const GROWTH = 1 / 8;

/**
 * How many rows the server manages in one statement: half as many as in one that took too long, for a tight
 * `statement_timeout` would cut the same one for ever; then more again, for what made it slow may have passed.
 */
export class Reach {
  #size: number;

  constructor(private readonly most: number) {
    this.#size = most;
  }

  get size(): number {
    return this.#size;
  }

  tookTooLong(rows: number): void {
    this.#size = Math.max(1, Math.min(this.#size, Math.floor(rows / 2)));
  }

  /** A smaller one says nothing of what it would have managed. */
  managed(rows: number): void {
    if (rows >= this.#size) this.#size = Math.min(this.most, Math.ceil(this.#size * (1 + GROWTH)));
  }
}
