/** Id of a queue, message or worker: an int8 as a decimal string, exact in JavaScript and safe in JSON. */
export type Id = string;

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

/** Which expired leases of foreign (pgqrs) workers a consumer takes over; see ConsumerOptions. */
export type ForeignLeases = 'never' | 'stale' | 'expired';
