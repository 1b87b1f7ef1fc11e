import type { IngestProgress } from '../src/errors/index.js';

/** A batch: takes items until the stream sends it. */
export interface FillingBatch<T> {
  /** Items that it accounts for. */
  readonly count: number;
  readonly bytes: number;
  /**
   * Adds one item, or throws and adds nothing.
   * @param payload what is stored: what `validate` made of the item, or the item itself
   */
  append(item: T, payload: unknown, index: number): void;
  /** Accounts for an item that cannot be stored. @returns false where that ends the stream */
  reject(item: T, error: unknown, index: number): boolean;
  /** Resolves when its rows are committed. Called in order, each time a place is free; the batch is not used again. */
  send(): Promise<CommittedBatch>;
}

/** What a batch was when it was committed. */
export interface CommittedBatch {
  /** Number of the batch in its stream, counted from 1. */
  seq: number;
  /** Rows that it put into the queue. */
  rows: number;
  /** Items that were left out, since their keys had come before. */
  duplicates: number;
  /** Items that were left out, since they cannot be stored. */
  rejected: number;
  bytes: number;
  method: 'copy' | 'insert';
  /** Whether the answer to its COMMIT was lost, and the ledger found it committed. */
  resolved: boolean;
  /** Source position behind its last item. */
  position: string;
  /** Time in ms: to get the transaction, to send the rows, to wait for the batch before, to commit. */
  ms: { begin: number; transfer: number; turn: number; commit: number };
}

/** Where the stream's rows go. Functions only: the stream knows neither client nor SQL. */
export interface Sink<T> {
  /** Makes ready; nothing else is called before it resolves. @param tell has an event emitted */
  open(signal: AbortSignal, tell: SinkEvents): Promise<StreamStart>;
  /**
   * Makes the payload that is stored of an item, or a Promise of it. What it throws or rejects with goes to the batch's
   * `reject`. Called once per item, in order, one item at a time.
   */
  validate?(item: T, index: number): unknown;
  /** Takes a place in flight, which the next batch must then be sent in. One asks at a time. */
  place(): Promise<void>;
  /** A new, empty batch. */
  batch(): FillingBatch<T>;
  /** Leaves nothing behind; called once, when no batch is in flight. Resolves with what is committed; never rejects. */
  close(): Promise<IngestProgress>;
}

/** Where a stream begins. */
export interface StreamStart {
  /** Source position up to which everything is in the queue; empty for the beginning. */
  position: string;
  /** Place in the source of the first item that will be written. */
  index: number;
}

/** What a sink has to tell while it works. */
export interface SinkEvents {
  onRetry: (event: RetryEvent) => void;
  onBacklog: (event: BacklogEvent) => void;
}

export interface RetryEvent {
  /** The batch that is sent again. */
  seq: number;
  /** How often it has failed. */
  attempt: number;
  error: Error;
  /** Wait before it is sent again, in ms. */
  delayMs: number;
}

export interface BacklogEvent {
  /** Messages that are ready in the queue; one more than `maxBacklog` where there are more, or they can't be counted. */
  ready: number;
  /** Wait before they are counted again, in ms. */
  delayMs: number;
}
