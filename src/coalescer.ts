/** What waits for its group to be sent. */
export interface Sized {
  readonly bytes: number;
}

const MAX_GROUP = 1_000;
const MAX_GROUP_BYTES = 8 * 1_024 * 1_024;

/**
 * Gathers into one group what is asked for in one turn of the event loop, or while the group before is under way. One
 * group is under way at a time, so groups keep the order of the calls, and nothing waits while none is.
 */
export class Coalescer<Item extends Sized> {
  readonly #waiting: Item[] = [];
  #running: Promise<void> | undefined;

  /** @param send settles each of its items by itself, and never rejects @param maxGroup items in the next group */
  constructor(
    private readonly send: (group: Item[]) => Promise<void>,
    private readonly maxGroup = () => MAX_GROUP,
  ) {}

  get waiting(): number {
    return this.#waiting.length;
  }

  add(item: Item): void {
    this.#waiting.push(item);
    this.#running ??= this.#run();
  }

  /** Resolves when nothing is waiting or under way. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    for (;;) {
      await everybodyHasCalled();
      if (this.#waiting.length === 0) break;
      await this.send(this.take());
    }
    this.#running = undefined;
  }

  /** Takes the next group away, for whoever has other means to send it. */
  take(): Item[] {
    const maxGroup = this.maxGroup();
    let bytes = 0;
    let count = 0;
    for (const item of this.#waiting) {
      bytes += item.bytes;
      if (count > 0 && (count === maxGroup || bytes > MAX_GROUP_BYTES)) break;
      count++;
    }
    return this.#waiting.splice(0, count);
  }
}

/** A tick comes after all promises that are ready: those who waited for the last group have had their turn. */
function everybodyHasCalled(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}
