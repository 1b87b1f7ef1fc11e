import * as check from './check.js';
import type { CallersClient } from './db.js';
import { DeadLetter } from './errors/index.js';
import type { Delivery, Release } from './sql/settle.js';
import type { Id, StoredMessage } from './types.js';

/** What a delivery can ask of the consumer that holds it. */
export interface Holder {
  archive(delivery: Delivery, client?: CallersClient): Promise<boolean>;
  delete(delivery: Delivery, client?: CallersClient): Promise<boolean>;
  release(release: Release, client?: CallersClient): Promise<boolean>;
  extendVisibility(delivery: Delivery, seconds: number): Promise<boolean>;
  /** What a failure makes of the message. */
  afterFailure(delivery: Delivery & { readCount: number }, error: unknown): Release;
}

/** What has become of a message. */
export type SettledAs = 'done' | 'retried' | 'dead' | 'released';

export interface SettleOptions {
  /**
   * A client of yours in a transaction: the message is settled with that transaction, or not at all. Roll it back where
   * the answer is false: somebody else has the message.
   */
  client?: CallersClient;
}

export interface ReleaseOptions extends SettleOptions {
  /** Until it is due again, in seconds. @default 0 */
  delaySeconds?: number;
}

export interface DeadLetterOptions extends SettleOptions {
  /** The error behind it, kept as `lastError`. */
  error?: unknown;
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
  readonly #bytes: number;
  #settledAs: SettledAs | undefined;

  /** @param bytes of the payload, as it was received */
  constructor(stored: StoredMessage, payload: T, holder: Holder, bytes: number) {
    this.id = stored.id;
    this.queueId = stored.queueId;
    this.payload = payload;
    this.vt = stored.vt;
    this.enqueuedAt = stored.enqueuedAt;
    this.readCount = stored.readCount;
    this.dequeuedAt = stored.dequeuedAt;
    this.producerWorkerId = stored.producerWorkerId;
    this.consumerWorkerId = stored.consumerWorkerId;
    this.archivedAt = stored.archivedAt;
    this.#holder = holder;
    this.#bytes = bytes;
  }

  /**
   * Done, and kept as archived. @returns whether this delivery still held the message
   * @example
   * await client.query('begin');
   * await client.query('update accounts …');
   * if (await message.archive({ client })) await client.query('commit'); // both or neither
   * else await client.query('rollback');
   */
  archive({ client }: SettleOptions = {}): Promise<boolean> {
    return this.#settle('done', this.#holder.archive(this, client));
  }

  /** Done, and gone. @returns whether this delivery still held the message */
  delete({ client }: SettleOptions = {}): Promise<boolean> {
    return this.#settle('done', this.#holder.delete(this, client));
  }

  /** Not done: back into the queue, at once or after a delay. @returns whether this delivery still held the message */
  async release({ delaySeconds = 0, client }: ReleaseOptions = {}): Promise<boolean> {
    const release = { ...this.#delivery, delaySeconds: check.seconds('delaySeconds', delaySeconds) };
    return this.#settle('released', this.#holder.release(release, client));
  }

  /**
   * Failed: back into the queue for as long as the consumer's `backoff` says, or, after `maxReadCount` deliveries,
   * among the dead letters. @returns whether this delivery still held the message
   */
  async fail(error: unknown, { client }: SettleOptions = {}): Promise<boolean> {
    const release = this.#holder.afterFailure(this.#delivery, error);
    return this.#settle(release.dead ? 'dead' : 'retried', this.#holder.release(release, client));
  }

  /** Never to be tried again: among the dead letters. @returns whether this delivery still held the message */
  deadLetter(reason: string, { error, client }: DeadLetterOptions = {}): Promise<boolean> {
    return this.fail(new DeadLetter(reason, { cause: error }), client ? { client } : {});
  }

  /** Adds seconds to the lease. @returns whether this delivery still held the message */
  async extendVisibility(seconds: number): Promise<boolean> {
    return this.#holder.extendVisibility(this, check.leaseSeconds('seconds', seconds));
  }

  /** @internal of its payload, as it was received */
  get bytes(): number {
    return this.#bytes;
  }

  /** @internal what its own methods have made of it */
  get settledAs(): SettledAs | undefined {
    return this.#settledAs;
  }

  async #settle(as: SettledAs, settling: Promise<boolean>): Promise<boolean> {
    const held = await settling;
    if (held) this.#settledAs = as;
    return held;
  }

  get #delivery() {
    return { id: this.id, readCount: this.readCount };
  }
}
