import type { Room } from '../../streams/claim-loop.js';
import type { MessageSource } from '../../streams/message-stream.js';
import type { Persistence } from '../retrying.js';
import type { Deliveries } from './deliveries.js';
import { Leases } from './leases.js';
import { messageMemory, type Share } from './memory.js';
import type { QueueSource } from './queue-source.js';
import { Held } from './work.js';

export interface HoldingParts {
  deliveries: Deliveries;
  /** The queue, for claims of a kind. */
  sourceOf: (claim: (room: Room, hurry: AbortSignal) => Promise<Held[]>) => QueueSource<Held>;
  onRenewError: (error: Error) => void;
}

export interface HoldingOptions extends HoldingParts {
  lockSeconds: number;
  /** How many more messages would be handled at once. @default 1 */
  freeSlots?: () => number;
  /** Called when there may be memory for a claim that found none. */
  onRoom: () => void;
}

const GIVE_BACK_RETRY = { baseMs: 50, maxMs: 2_000 };

/**
 * What a run, or a message stream, has in hand: messages that it has claimed and not yet settled, or handed out. Their
 * leases are renewed, and they take up memory, until they are removed from `leases`.
 */
export class Holding implements MessageSource<Held> {
  readonly leases: Leases;
  readonly memory: Share;
  readonly #source: QueueSource<Held>;
  readonly #givingBack = new Set<Promise<void>>();
  readonly #over = new AbortController();

  constructor(private readonly options: HoldingOptions) {
    const { deliveries, lockSeconds, onRenewError } = options;
    this.memory = messageMemory.share(options.onRoom);
    this.leases = new Leases({
      lockSeconds,
      renew: (held, seconds) => deliveries.renew(held, seconds),
      onRenewError,
      onRemoved: ({ bytes }) => this.memory.free(bytes),
    });
    this.#source = options.sourceOf((room, hurry) => this.#claim(room, hurry));
  }

  async claim(room: Room, signal: AbortSignal): Promise<Held[]> {
    let held: Held[] = [];
    try {
      held = await this.#source.claim(room, signal);
      return held;
    } finally {
      this.memory.claimed(
        room,
        held.length,
        held.reduce((sum, { bytes }) => sum + bytes, 0),
      );
    }
  }

  wait(empty: number, signal: AbortSignal): Promise<void> {
    return this.#source.wait(empty, signal);
  }

  /** Never rejects. */
  async giveBack(held: readonly Held[], patience?: Persistence): Promise<void> {
    for (const one of held) this.leases.remove(one);
    await this.options.deliveries.giveBack(
      held.map(({ message }) => message),
      patience,
    );
  }

  /** Tried again for as long as there are leases to give back: those that just end count as deliveries. */
  giveBackSurplus(held: readonly Held[]): void {
    const withinMs = Math.max(...held.map(({ endsAtMs }) => endsAtMs)) - performance.now();
    const givingBack = this.giveBack(held, { ...GIVE_BACK_RETRY, withinMs, hurry: this.#over.signal });
    this.#givingBack.add(givingBack);
    void givingBack.finally(() => this.#givingBack.delete(givingBack));
  }

  /** Nothing is claimed any more: resolves when no surplus is on its way back. */
  async stop(): Promise<void> {
    this.#over.abort();
    this.memory.end();
    await Promise.all(this.#givingBack);
  }

  /** Nothing is held any more. */
  async close(): Promise<void> {
    await this.stop();
    this.leases.end();
    this.#source.close();
  }

  async #claim(room: Room, hurry: AbortSignal): Promise<Held[]> {
    const { deliveries, lockSeconds, freeSlots = () => 1 } = this.options;
    let sinceMs: number | undefined;
    const sending = () => (sinceMs ??= performance.now());
    // What may end this process is not held ahead: whatever is would be taken for what did.
    const suspectsAtMost = Math.max(1, freeSlots());
    const messages = await deliveries.claim({ room, lockSeconds, hurry, onSending: sending, suspectsAtMost });
    const untilMs = (sinceMs ?? performance.now()) + lockSeconds * 1_000;
    return messages.map((message) => {
      const held = new Held(message, untilMs);
      this.leases.add(held);
      return held;
    });
  }
}
