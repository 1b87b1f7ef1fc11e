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

export const SETTLE: check.Names<SettleOptions> = { client: true };
export const RELEASE: check.Names<ReleaseOptions> = { ...SETTLE, delaySeconds: true };
export const DEAD_LETTER: check.Names<DeadLetterOptions> = { ...SETTLE, error: true };

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
  #over = false;
  #isSuspect = false;

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
  async archive(options: SettleOptions = {}): Promise<boolean> {
    const client = clientOf('message.archive()', options);
    return this.#settle('done', () => this.#holder.archive(this, client));
  }

  /** Done, and gone. @returns whether this delivery still held the message */
  async delete(options: SettleOptions = {}): Promise<boolean> {
    const client = clientOf('message.delete()', options);
    return this.#settle('done', () => this.#holder.delete(this, client));
  }

  /** Not done: back into the queue, at once or after a delay. @returns whether this delivery still held the message */
  async release(options: ReleaseOptions = {}): Promise<boolean> {
    const { delaySeconds = 0, client } = check.options('message.release()', options, RELEASE);
    if (client !== undefined) check.client('client', client);
    const release = { ...this.#delivery, delaySeconds: check.seconds('delaySeconds', delaySeconds) };
    return this.#settle('released', () => this.#holder.release(release, client));
  }

  /**
   * Failed: back into the queue for as long as the consumer's `backoff` says, or, after `maxReadCount` deliveries,
   * among the dead letters. @returns whether this delivery still held the message
   */
  async fail(error: unknown, options: SettleOptions = {}): Promise<boolean> {
    const client = clientOf('message.fail()', options);
    const release = this.#holder.afterFailure(this.#delivery, error);
    return this.#settle(release.dead ? 'dead' : 'retried', () => this.#holder.release(release, client));
  }

  /** Never to be tried again: among the dead letters. @returns whether this delivery still held the message */
  async deadLetter(reason: string, options: DeadLetterOptions = {}): Promise<boolean> {
    const { error, client } = check.options('message.deadLetter()', options, DEAD_LETTER);
    check.kind('reason', reason, 'a string', (given) => typeof given === 'string');
    return this.fail(new DeadLetter(reason, { cause: error }), client ? { client } : {});
  }

  /** Adds seconds to the lease. @returns whether this delivery still held the message */
  async extendVisibility(seconds: number): Promise<boolean> {
    check.leaseSeconds('seconds', seconds);
    return !this.#over && this.#holder.extendVisibility(this, seconds);
  }

  /** @internal of its payload, as it was received */
  get bytes(): number {
    return this.#bytes;
  }

  /** @internal what its own methods have made of it */
  get settledAs(): SettledAs | undefined {
    return this.#settledAs;
  }

  /** @internal its last lease ran out: for all that is known it ends the processes that handle it */
  get isSuspect(): boolean {
    return this.#isSuspect;
  }

  /** @internal */
  suspect(): void {
    this.#isSuspect = true;
  }

  /**
   * @internal given back uncounted: the next delivery to the same consumer has the same count, and a handler that was
   * told to stop may still settle this one
   */
  end(): void {
    this.#over = true;
  }

  async #settle(as: SettledAs, settle: () => Promise<boolean>): Promise<boolean> {
    const held = !this.#over && (await settle());
    if (held) this.#settledAs = as;
    return held;
  }

  get #delivery() {
    return { id: this.id, readCount: this.readCount };
  }
}

function clientOf(call: string, options: SettleOptions): CallersClient | undefined {
  const { client } = check.options(call, options, SETTLE);
  return client === undefined ? undefined : check.client('client', client);
}
