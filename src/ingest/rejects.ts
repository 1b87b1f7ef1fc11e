import type { Db, Queryable } from '../db.js';
import { Doorbell } from '../doorbell.js';
import { InvalidOptionError, QueueNotFoundError, SluiceError, TooManyRejectsError } from '../errors/index.js';
import { asError } from '../errors/thrown.js';
import { shown } from '../shown.js';
import { selectQueue } from '../sql/queues.js';
import type { Queue } from '../types.js';
import type { Batch } from './batch.js';
import { rejectMessage, type RejectMessage } from './reject-message.js';

/** An item that is not going to be in the queue, and why. */
export interface Reject<T = unknown> {
  /** Place of the item in its source, counted from 0. */
  index: number;
  /** Code of the error: `PAYLOAD_INVALID`, `PAYLOAD_TOO_LARGE`, `INVALID_OPTION`. */
  code: string;
  reason: string;
  /** The item, where it was refused before it was sent. */
  item?: T;
  /** The item as JSON, where the server refused it: the batch keeps bytes, not objects. */
  text?: string;
}

/** A reject on its way, with its batch. */
export interface Rejected {
  readonly reject: Reject;
  /** What it becomes in the queue of rejects; made when it is needed, or sooner, while the item is as it was. */
  message?: RejectMessage;
  /** Handed to `onReject`. */
  reported: boolean;
}

/** Most rejects: how many, or their share of all items so far, looked at when a batch is sent. */
export type MaxRejects = number | { ratio: number };

export interface RejectsOptions {
  onReject: ((reject: Reject<never>) => unknown) | undefined;
  /** Name of the queue where rejects become messages. */
  rejectTo: string | undefined;
  maxRejects: MaxRejects | undefined;
  /** Of the queue that the items were meant for. */
  meantFor: string;
  maxPayloadBytes: number;
}

/** What becomes of the items of a stream that cannot be stored, so that the others can. */
export class Rejects {
  /** Where rejects become messages, in the transaction of their batch. */
  queue: Queue | undefined;
  #doorbell: Doorbell | undefined;
  #ended: AbortSignal | undefined;
  readonly #inFlight: Batch[] = [];
  /** Of the batches that are committed. */
  readonly #done = { items: 0, rejected: 0 };
  /** One call after the other, also when a batch goes back in the middle of one. */
  #reporting: Promise<void> = Promise.resolve();

  constructor(private readonly options: RejectsOptions) {
    const { rejectTo, meantFor } = options;
    if (rejectTo === meantFor)
      throw new InvalidOptionError('rejectTo', 'another queue than that of the stream', shown(rejectTo));
  }

  /** @param signal aborts when the stream ends @throws {QueueNotFoundError} there is no queue `rejectTo` */
  async open(on: Queryable, db: Db, signal: AbortSignal): Promise<void> {
    this.#ended = signal;
    const { rejectTo } = this.options;
    if (rejectTo === undefined) return;
    this.queue = await selectQueue(on, rejectTo);
    if (!this.queue) throw new QueueNotFoundError(rejectTo);
    this.#doorbell = new Doorbell(db, this.queue.id);
  }

  async quiet(): Promise<void> {
    await this.#doorbell?.quiet();
  }

  /** Whether an error says something about one item, so that the stream may go on without it. */
  static isAboutItem(error: unknown): error is SluiceError {
    return error instanceof SluiceError && ABOUT_ITEMS.has(error.code);
  }

  /** The item as it is now: its source may go on to change it. @returns how many bytes it holds */
  keep(rejected: Rejected): number {
    const message = this.#messageOf(rejected);
    if (this.options.rejectTo !== undefined) rejected.message = message;
    return message.heldBytes;
  }

  /** Batches are told of in their order. */
  sent(batch: Batch): void {
    this.#inFlight.push(batch);
  }

  committed(batch: Batch): void {
    this.#inFlight.shift();
    this.#done.items += batch.items;
    this.#done.rejected += batch.rejects.length;
    // Tells consumers of rejects that there are some.
    if (batch.rejects.length > 0) this.#doorbell?.ring();
  }

  /** The error that ends the stream when, up to this batch and as far as is known, there are too many. */
  tooMany(batch: Batch): TooManyRejectsError | undefined {
    const { maxRejects } = this.options;
    if (maxRejects === undefined) return undefined;
    let { items, rejected } = this.#done;
    for (const each of this.#inFlight.slice(0, this.#inFlight.indexOf(batch) + 1)) {
      items += each.items;
      rejected += each.rejects.length;
    }
    const limit = typeof maxRejects === 'number' ? maxRejects : items * maxRejects.ratio;
    return rejected > limit ? new TooManyRejectsError(rejected, items, maxRejects) : undefined;
  }

  /** Whether there are rejects of the batch that have to be reported. */
  hasNews({ rejects }: Batch): boolean {
    return this.options.onReject !== undefined && rejects.some(({ reported }) => !reported);
  }

  /** Hands over each reject of the batch once, in order. @throws {OnRejectError} the callback threw */
  report({ rejects }: Batch): Promise<void> {
    const news = rejects.filter(({ reported }) => !reported);
    for (const rejected of news) rejected.reported = true;
    this.#reporting = this.#reporting.then(() => this.#tell(news));
    return this.#reporting;
  }

  async #tell(news: readonly Rejected[]): Promise<void> {
    for (const { reject } of news) {
      if (this.#ended?.aborted) return;
      try {
        await this.options.onReject?.(reject as Reject<never>);
      } catch (error) {
        throw new OnRejectError(error);
      }
    }
  }

  /** The batch's rejects as messages. */
  messages({ rejects }: Batch): RejectMessage[] {
    return rejects.map((rejected) => (rejected.message ??= this.#messageOf(rejected)));
  }

  #messageOf({ reject }: Rejected): RejectMessage {
    const { meantFor, maxPayloadBytes } = this.options;
    return rejectMessage(reject, meantFor, maxPayloadBytes);
  }
}

/** Keeps what `onReject` threw apart from failures of the batch, which may be sent again. */
export class OnRejectError extends Error {
  /** What the stream ends with. */
  override readonly cause: Error;
  constructor(thrown: unknown) {
    super();
    this.cause = asError(thrown);
  }
}

const ABOUT_ITEMS = new Set(['PAYLOAD_INVALID', 'PAYLOAD_TOO_LARGE', 'INVALID_OPTION']);
