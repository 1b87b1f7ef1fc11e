import type { Listener } from '../listener.js';

/** What waits for messages of a queue. */
export interface Waiter {
  /** Messages may have come. */
  wake(): void;
}

/** For the one whose turn it is to say what its claim has brought; then it is the next one's. */
const PATIENCE_MS = 25;
/** So many rings in a row may find nothing, as when others are quicker, before they are answered later and together. */
const FRUITLESS = 3;
const MAX_DELAY_MS = 20;

/**
 * All in this process that wait for messages of one queue. A notification is mostly about one message, so it wakes one
 * of them: the one that has been asleep for longest. Whoever finds as many as it asked for wakes another one.
 */
export class Turns {
  readonly #waiters = new Set<Waiter>();
  /** In the order in which they fell asleep. */
  readonly #asleep = new Set<Waiter>();
  /** It was woken and has not said yet what it has found. */
  #turn: Waiter | undefined;
  #patience: NodeJS.Timeout | undefined;
  #ringing: NodeJS.Timeout | undefined;
  #fruitless = 0;
  #due: NodeJS.Timeout | undefined;
  #dueAtMs = Infinity;
  #stopListening: (() => void) | undefined;

  constructor(private readonly listen: (ring: () => void) => () => void) {}

  /** @returns what ends it */
  join(waiter: Waiter): () => void {
    this.#waiters.add(waiter);
    this.#stopListening ??= this.listen(() => this.#ring());
    return () => {
      this.#waiters.delete(waiter);
      this.#asleep.delete(waiter);
      if (this.#turn === waiter) this.#wakeNext();
      if (this.#waiters.size > 0) return;
      for (const timer of [this.#patience, this.#ringing, this.#due]) clearTimeout(timer);
      this.#dueAtMs = Infinity;
      this.#ringing = undefined;
      this.#stopListening?.();
      this.#stopListening = undefined;
    };
  }

  fellAsleep(waiter: Waiter): void {
    this.#asleep.add(waiter);
  }

  wokeUp(waiter: Waiter): void {
    this.#asleep.delete(waiter);
  }

  /** A message will be due then: for whoever has time. */
  dueIn(ms: number): void {
    const atMs = performance.now() + ms;
    if (atMs >= this.#dueAtMs) return;
    clearTimeout(this.#due);
    this.#dueAtMs = atMs;
    // Longer delays overflow a timer; who waits that long has polled before.
    this.#due = setTimeout(
      () => {
        this.#dueAtMs = Infinity;
        this.#wakeLooking();
        this.#wakeNext();
      },
      Math.min(Math.ceil(ms), 2 ** 31 - 1),
    ).unref();
  }

  claimed(waiter: Waiter, count: number, isFull: boolean): void {
    if (count > 0) this.#fruitless = 0;
    if (this.#turn === waiter) {
      this.#turn = undefined;
      clearTimeout(this.#patience);
      if (count === 0) this.#fruitless++;
    }
    if (isFull) this.#wakeNext();
  }

  #ring(): void {
    this.#wakeLooking();
    if (this.#ringing) return;
    if (this.#fruitless < FRUITLESS) this.#wakeNext();
    else {
      this.#ringing = setTimeout(
        () => {
          this.#ringing = undefined;
          this.#wakeNext();
        },
        Math.random() * Math.min(MAX_DELAY_MS, 2 ** this.#fruitless),
      ).unref();
    }
  }

  /** Who is about to fall asleep would miss it. */
  #wakeLooking(): void {
    for (const waiter of this.#waiters) if (!this.#asleep.has(waiter)) waiter.wake();
  }

  #wakeNext(): void {
    clearTimeout(this.#patience);
    const [next] = this.#asleep;
    this.#turn = next;
    if (!next) return;
    this.#asleep.delete(next);
    this.#patience = setTimeout(() => this.#wakeNext(), PATIENCE_MS).unref();
    next.wake();
  }
}

const turns = new WeakMap<Listener, Map<string, Turns>>();

/** Of the queue with that channel, among all that share the listener. */
export function turnsOf(listener: Listener, channel: string): Turns {
  const ofListener = turns.get(listener) ?? new Map<string, Turns>();
  turns.set(listener, ofListener);
  const ofChannel = ofListener.get(channel) ?? new Turns((ring) => listener.subscribe(channel, ring));
  ofListener.set(channel, ofChannel);
  return ofChannel;
}
