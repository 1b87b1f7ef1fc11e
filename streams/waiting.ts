/** What one claim has brought, and how much of it is taken. */
interface Arrival<M> {
  /** Those that are taken leave a gap, so that nothing keeps them in memory. */
  messages: (M | undefined)[];
  next: number;
  sinceMs: number;
}

/** Claimed messages that wait for their turn, in the order in which they came. */
export class Waiting<M> {
  #arrivals: Arrival<M>[] = [];
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** How long the first one has been waiting, in ms; 0 where there is none. */
  get waitedMs(): number {
    const [first] = this.#arrivals;
    return first ? performance.now() - first.sinceMs : 0;
  }

  /** The one that `take` takes next. */
  get first(): M | undefined {
    const [first] = this.#arrivals;
    return first?.messages[first.next];
  }

  add(messages: readonly M[]): void {
    if (messages.length === 0) return;
    this.#arrivals.push({ messages: [...messages], next: 0, sinceMs: performance.now() });
    this.#count += messages.length;
  }

  take(): M | undefined {
    const [first] = this.#arrivals;
    if (!first) return undefined;
    const message = first.messages[first.next];
    first.messages[first.next++] = undefined;
    this.#count--;
    if (first.next === first.messages.length) this.#arrivals.shift();
    return message;
  }

  /** Takes all but the first `keep`. */
  takeBeyond(keep: number): M[] {
    const all: M[] = [];
    const kept = this.#arrivals;
    this.#arrivals = [];
    this.#count = 0;
    for (const { messages, next, sinceMs } of kept) {
      const here = messages.slice(next) as M[];
      const stay = here.splice(0, Math.max(0, keep - this.#count));
      if (stay.length > 0) this.#arrivals.push({ messages: stay, next: 0, sinceMs });
      this.#count += stay.length;
      all.push(...here);
    }
    return all;
  }
}
