import type { Delivery } from './sql/messages.js';
import type { Id, StoredMessage } from './types.js';

/** What a delivery can ask of the consumer that holds it. */
export interface Holder {
  archive(delivery: Delivery): Promise<boolean>;
  delete(delivery: Delivery): Promise<boolean>;
  release(delivery: Delivery, options?: { delaySeconds?: number }): Promise<boolean>;
  extendVisibility(delivery: Delivery, seconds: number): Promise<boolean>;
}

/**
 * One delivery of a message to one consumer. Its methods name exactly this delivery: they answer false, and change
 * nothing, once the lease has gone to somebody else or to a later delivery.
 */
export class Message<T = unknown> implements StoredMessage<T> {
  readonly id: Id;
  readonly queueId: Id;
  readonly payload: T;
  /** When the lease ends, as of the claim. */
  readonly vt: Date;
  readonly enqueuedAt: Date;
  readonly readCount: number;
  readonly dequeuedAt: Date | null;
  readonly producerWorkerId: Id | null;
  readonly consumerWorkerId: Id | null;
  readonly archivedAt: Date | null;
  readonly #holder: Holder;

  constructor(stored: StoredMessage<T>, holder: Holder) {
    this.id = stored.id;
    this.queueId = stored.queueId;
    this.payload = stored.payload;
    this.vt = stored.vt;
    this.enqueuedAt = stored.enqueuedAt;
    this.readCount = stored.readCount;
    this.dequeuedAt = stored.dequeuedAt;
    this.producerWorkerId = stored.producerWorkerId;
    this.consumerWorkerId = stored.consumerWorkerId;
    this.archivedAt = stored.archivedAt;
    this.#holder = holder;
  }

  /** Done, and kept as archived. @returns whether this delivery still held the message */
  archive(): Promise<boolean> {
    return this.#holder.archive(this);
  }

  /** Done, and gone. @returns whether this delivery still held the message */
  delete(): Promise<boolean> {
    return this.#holder.delete(this);
  }

  /** Not done: back into the queue, at once or after a delay. @returns whether this delivery still held the message */
  release(options?: { delaySeconds?: number }): Promise<boolean> {
    return this.#holder.release(this, options);
  }

  /** Adds seconds to the lease. @returns whether this delivery still held the message */
  extendVisibility(seconds: number): Promise<boolean> {
    return this.#holder.extendVisibility(this, seconds);
  }
}
