import type { MessageSource } from './message-stream.js';

/** What one claim may bring: of large messages fewer, but always one. */
export interface Room {
  limit: number;
  maxBytes: number;
}

/** Memory for messages. */
export interface Memory {
  /** How many of so many messages there is memory for, those that are held included; at least one. */
  fit(messages: number): number;
  /** Sets memory aside for a claim of at most so many; nothing where there is none: the loop is poked when there is. */
  room(messages: number): Room | undefined;
}

export interface ClaimLoopOptions<M> {
  /** Messages to claim ahead of those that are being handled. */
  prefetch: () => number;
  /** Messages that are handled at once; 0 where that is not known. */
  slots?: number;
  /** Claims under way at once, once the queue has shown that it is full. More than 1 may bring messages out of order. */
  claims?: number;
  /** Messages that wait to be handled. */
  waiting: () => number;
  /** Messages that are being handled. */
  running?: () => number;
  /** @default without bounds */
  memory?: Memory;
  onMessages: (messages: M[]) => void;
  /** Called once, for what ended the loop. */
  onError: (error: Error) => void;
}

const UNBOUNDED: Memory = {
  fit: (messages) => messages,
  room: (messages) => ({ limit: messages, maxBytes: Infinity }),
};

/** So few messages are not worth a claim more. */
const FEW = 300;

/**
 * Claims from a source whenever there is room, and waits when there is nothing. Not before half of the room is free,
 * or a slow handler would make it claim one by one.
 */
export class ClaimLoop<M> {
  readonly #ending = new AbortController();
  readonly #underWay = new Set<Promise<void>>();
  #claiming = 0;
  /** Messages that the claims under way may bring. */
  #asked = 0;
  #waits = false;
  /** Claims in a row that have brought nothing. */
  #empty = 0;
  /** The last claim brought all that it asked for. */
  #full = false;

  constructor(
    private readonly source: MessageSource<M>,
    private readonly options: ClaimLoopOptions<M>,
  ) {}

  /** To be called whenever there may be more room. */
  poke(): void {
    const atOnce = this.#full ? (this.options.claims ?? 1) : 1;
    while (!this.#ending.signal.aborted && !this.#waits && this.#claiming < atOnce) {
      const wanted = this.#wanted();
      const room = wanted > 0 ? (this.options.memory ?? UNBOUNDED).room(wanted) : undefined;
      if (!room) return;
      this.#claiming++;
      const claim = this.#claim(room).finally(() => this.#underWay.delete(claim));
      this.#underWay.add(claim);
    }
  }

  /** Nothing is claimed any more; resolves when what a claim under way still brought is back in the queue. */
  async end(reason: Error): Promise<void> {
    this.#ending.abort(reason);
    await Promise.all(this.#underWay);
  }

  #wanted(): number {
    const { prefetch, slots = 0, claims = 1, waiting, running = () => 0, memory = UNBOUNDED } = this.options;
    const ahead = waiting() + this.#asked;
    const all = memory.fit(slots + prefetch());
    const toBeAhead = Math.max(0, all - slots);
    const room = all - ahead - running();
    if (room <= 0) return 0;
    // Of many messages one share is being handled while the claims bring the others.
    const share = Math.ceil(all / (claims > 1 && all > FEW ? claims + 1 : claims));
    return room >= Math.min(share, all / 2) || ahead * 2 <= toBeAhead ? Math.min(room, share) : 0;
  }

  /** Never rejects. */
  async #claim(room: Room): Promise<void> {
    try {
      if (await this.#isShort(room)) {
        this.#waits = true;
        await this.source.wait(this.#empty, this.#ending.signal);
        this.#waits = false;
      }
    } catch (error) {
      if (!this.#ending.signal.aborted) {
        this.#ending.abort(error);
        this.options.onError(error as Error);
      }
    }
    this.#claiming--;
    this.poke(); // in the same breath, or what became free in between would not be seen
  }

  /** @returns whether it is time to wait: of several claims the last one does */
  async #isShort(room: Room): Promise<boolean> {
    const { signal } = this.#ending;
    const { limit } = room;
    this.#asked += limit;
    const messages = await this.source.claim(room, signal);
    this.#asked -= limit;
    if (signal.aborted) {
      await this.source.giveBack(messages);
      return false;
    }
    this.#empty = messages.length > 0 ? 0 : this.#empty + 1;
    this.#full = messages.length === limit;
    this.options.onMessages(messages);
    return !this.#full && this.#claiming === 1;
  }
}
