/** Id of a queue, message or worker: an int8 as a decimal string, exact in JavaScript and safe in JSON. */
export type Id = string;

/** An id as calls take it: also as a number that JavaScript holds exactly. */
export type IdLike = Id | bigint | number;

export interface Queue {
  id: Id;
  name: string;
  createdAt: Date;
}

/** States of a worker. Polling and interrupted are only those that were told so: pgqrs' pollers, and who calls `poll()`. */
export type WorkerStatus = 'ready' | 'polling' | 'suspended' | 'interrupted' | 'stopped';

/** A stream into a queue as the ledger knows it. Times are the server's. */
export interface IngestStream {
  name: string;
  queue: string;
  /** Whether it can be resumed by its name; the others end with their process. */
  resumable: boolean;
  /** How often it was started. */
  run: number;
  /** Batches that this run has committed. */
  batches: number;
  /** Rows that all its runs have put into the queue. */
  rows: number;
  /** Source position behind the last committed row; empty before the first. */
  position: string;
  /** When it last moved. */
  updatedAt: Date;
}

/** A registered worker as the table holds it. Times are the server's. */
export interface WorkerInfo {
  id: Id;
  name: string;
  /** Null: a worker of no queue, such as pgqrs' admins. */
  queueId: Id | null;
  status: WorkerStatus;
  startedAt: Date;
  heartbeatAt: Date;
  shutdownAt: Date | null;
}

/** A message as the table holds it. Times are the server's. */
export interface StoredMessage<T = unknown> {
  id: Id;
  queueId: Id;
  payload: T;
  /** When it is due; while it is leased, when the lease ends. */
  vt: Date;
  enqueuedAt: Date;
  /** Deliveries so far, this one included. */
  readCount: number;
  /** First delivery. */
  dequeuedAt: Date | null;
  producerWorkerId: Id | null;
  consumerWorkerId: Id | null;
  archivedAt: Date | null;
}

/** A dead letter: a message that nobody gets any more, until it is replayed. Times are the server's. */
export interface DeadMessage<T = unknown> extends StoredMessage<T> {
  /** 'exhausted': it was delivered as often as allowed; otherwise what its consumer gave as the reason. */
  reason: string;
  /** What its last handler failed with, where that is known. */
  lastError: string | null;
  /** Deliveries that it had. */
  attempts: number;
  deadAt: Date;
}

/**
 * What becomes next of a message that is not archived: due and free to be claimed; not due yet; held by a consumer;
 * delivered as often as allowed, and not among the dead letters yet.
 */
export type ActiveState = 'ready' | 'delayed' | 'leased' | 'exhausted';

/** A message that is not archived, and its state at the moment of the list. */
export interface ActiveMessage<T = unknown> extends StoredMessage<T> {
  state: ActiveState;
}

/** A page of a list of messages. */
export interface MessagePage<M> {
  messages: M[];
  /** What brings the next page; undefined: this was the last. */
  cursor: string | undefined;
}

/** What an operator has set for a queue. */
export interface QueueSettings {
  /** Since when it has been paused; null: it is not. */
  pausedAt: Date | null;
  /** How long its archive keeps a message that was done, in seconds; null: for ever. */
  archiveSeconds: number | null;
  /** How long it keeps a dead letter, in seconds; null: for ever. */
  deadLetterSeconds: number | null;
}

/** What was taken from workers that had gone silent. */
export interface Reclaimed {
  /** Those that were stopped. */
  workers: Id[];
  /** Messages that they held. */
  messages: number;
}

/** Which expired leases of foreign (pgqrs) workers a consumer takes over; see ConsumerOptions. */
export type ForeignLeases = 'never' | 'stale' | 'expired';
