/** A few ms of work, whatever the size of the items: a slow machine makes rows of 40 bytes a microsecond. */
const ITEMS = 128;
const BYTES = 128 * 1_024;

/**
 * Work on one turn of the event loop. Synchronous callbacks for ever would starve timers, and the sockets of batches in
 * flight: their round trips wait.
 */
export class Stint {
  #items = 0;
  #bytes = 0;

  /** Counts one item more. @returns whether it is time to let others have their turn; then a new stint begins */
  isOver(bytes: number): boolean {
    this.#bytes += bytes;
    if (++this.#items < ITEMS && this.#bytes < BYTES) return false;
    this.#items = this.#bytes = 0;
    return true;
  }
}
