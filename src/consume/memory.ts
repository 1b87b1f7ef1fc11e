import { getHeapStatistics } from 'node:v8';
import type { Room } from '../../streams/claim-loop.js';
import * as check from '../check.js';

const MIB = 1_024 * 1_024;
/** As values, with the text and the driver's buffers beside them, messages take a multiple of their bytes. */
const OF_HEAP = 1 / 32;
const MOST_BYTES = 64 * MIB;

/** For the first claim, when the size of the queue's messages is not known yet. */
const FIRST = { limit: 100, maxBytes: 256 * 1_024 };
/** Of what messages of the average size would take: a claim may bring larger ones than the last one did. */
const MARGIN = 2;
const LEAST_BYTES = 16 * 1_024;

/**
 * The memory for messages that runs and message streams have claimed: one budget for the process, in bytes of JSON as
 * they are received, however many consumers there are. One that is alone may use it all; where several want more than
 * there is, each has an equal share. One message each may hold whatever the others do, and whatever its size.
 */
export class MessageMemory {
  #limitBytes = Math.min(MOST_BYTES, Math.floor(getHeapStatistics().heap_size_limit * OF_HEAP));
  #heldBytes = 0;
  /** Those that hold something. */
  readonly #holders = new Set<Share>();
  /** Those that want more than there is, in the order in which they will be asked again. */
  readonly #hungry = new Set<Share>();
  #feeding = false;

  /** @default a 32nd of what the heap may grow to, at most 64 MiB */
  get limitBytes(): number {
    return this.#limitBytes;
  }

  /** Counts from the next claims on. */
  set limitBytes(bytes: number) {
    this.#limitBytes = check.integer('limitBytes', bytes, { min: 1, max: Number.MAX_SAFE_INTEGER });
    this.#feed();
  }

  /** Of messages that wait to be handled, or are being handled, and of what claims under way may bring. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** @internal @param onRoom called when there may be room for what has found none */
  share(onRoom: () => void): Share {
    return new Share(this, onRoom);
  }

  /** @internal most bytes that it may hold, as things are */
  limitOf(share: Share): number {
    const left = this.#limitBytes - (this.#heldBytes - share.heldBytes);
    const others = this.#hungry.size - (this.#hungry.has(share) ? 1 : 0);
    if (others === 0) return left;
    const eaters = Math.max(this.#holders.size, others + 1);
    return Math.min(left, this.#limitBytes / eaters);
  }

  /** @internal */
  isHungry(share: Share, is: boolean): void {
    if (is) this.#hungry.add(share);
    else this.#hungry.delete(share);
  }

  /** @internal by so many bytes, perhaps fewer */
  changed(share: Share, bytes: number): void {
    this.#heldBytes += bytes;
    if (share.heldBytes > 0) this.#holders.add(share);
    else this.#holders.delete(share);
    if (bytes < 0 && this.#hungry.size > 0) this.#feed();
  }

  /** Many become free in one turn, and each may be told to others. */
  #feed(): void {
    if (this.#feeding) return;
    this.#feeding = true;
    queueMicrotask(() => {
      this.#feeding = false;
      for (const share of [...this.#hungry]) {
        if (this.#heldBytes >= this.#limitBytes) return;
        this.#hungry.delete(share); // it may not want any more
        share.onRoom();
      }
    });
  }
}

/** The one budget of this process. */
export const messageMemory = new MessageMemory();

/** What one run, or one message stream, holds of the memory. */
export class Share {
  /** Of messages, and of what claims under way may bring. */
  heldBytes = 0;
  /** Average of the last claim. */
  #messageBytes: number | undefined;

  constructor(
    private readonly memory: MessageMemory,
    readonly onRoom: () => void,
  ) {}

  /** How many of so many messages there is memory for, those that are held included: at least one. */
  fit(messages: number): number {
    if (this.#messageBytes === undefined) return Math.min(messages, FIRST.limit);
    const fitting = Math.max(1, Math.floor(this.memory.limitOf(this) / this.#messageBytes));
    this.memory.isHungry(this, fitting < messages);
    return Math.min(messages, fitting);
  }

  /** Sets memory aside for a claim of so many messages, or fewer; nothing where there is none for a single one. */
  room(messages: number): Room | undefined {
    const left = this.memory.limitOf(this) - this.heldBytes;
    const each = this.#messageBytes ?? FIRST.maxBytes / FIRST.limit;
    const limit = Math.min(messages, Math.floor(left / each));
    this.memory.isHungry(this, limit < messages);
    if (limit >= 1)
      return this.#setAside(limit, Math.min(left, Math.max(limit * each * MARGIN, LEAST_BYTES)));
    // A claim brings one message whatever its size.
    return this.heldBytes === 0 ? this.#setAside(1, 1) : undefined;
  }

  /** A claim has brought so many messages, of that size together. */
  claimed({ maxBytes }: Room, messages: number, bytes: number): void {
    if (messages > 0) this.#messageBytes = Math.max(1, bytes / messages);
    this.#change(bytes - maxBytes);
  }

  /** So many bytes are not held any more. */
  free(bytes: number): void {
    this.#change(-bytes);
  }

  /** It wants nothing more, and soon holds nothing. */
  end(): void {
    this.memory.isHungry(this, false);
  }

  #setAside(limit: number, bytes: number): Room {
    const maxBytes = Math.ceil(bytes);
    this.#change(maxBytes);
    return { limit, maxBytes };
  }

  #change(bytes: number): void {
    this.heldBytes += bytes;
    this.memory.changed(this, bytes);
  }
}
