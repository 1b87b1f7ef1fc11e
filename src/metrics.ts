/** Messages by what becomes of them next. Each message is counted exactly once. */
export interface MessageCounts {
  /** Due, and free to be claimed. */
  ready: number;
  /** Not due yet. */
  delayed: number;
  /**
   * Held by a consumer: the lease runs, or its holder is a worker of pgqrs' own clients, which never renew their
   * leases, so that an expired one says nothing. An expired lease of ours has ended: such a message is ready again.
   */
  leased: number;
  /** Nobody gets it any more: a dead letter, or delivered as often as allowed, not held, and not swept up yet. */
  dead: number;
  /** Archived because it was done. */
  archived: number;
}

/** One queue at one moment. Times are the server's. */
export interface QueueMetrics extends MessageCounts {
  queue: string;
  /** Whether consumers of ours are kept from claiming; see admin.pauseQueue(). */
  paused: boolean;
  /** How long the longest-waiting ready message has been due, in seconds. Null: none is ready. */
  oldestReadyAgeSeconds: number | null;
  /** The same queue in the terms of pgqrs 0.15.3. */
  pgqrs: PgqrsQueueMetrics;
}

/** What `queue_metrics` of pgqrs 0.15.3 says. A message with a consumer is locked, even after its lease has ended. */
export interface PgqrsQueueMetrics {
  /** Archived ones too. */
  totalMessages: number;
  /** Neither archived nor with a consumer: delayed and dead ones too. */
  pendingMessages: number;
  /** With a consumer and not archived. */
  lockedMessages: number;
  /** Dead letters too. */
  archivedMessages: number;
  /** When the oldest pending message was enqueued. */
  oldestPendingMessage: Date | null;
  /** When the newest message was enqueued, archived ones included. */
  newestMessage: Date | null;
}

/** Workers by their status. Producers and consumers alike; a dead process' worker keeps the status that it had. */
export interface WorkerCounts {
  total: number;
  ready: number;
  polling: number;
  suspended: number;
  interrupted: number;
  stopped: number;
}

/** All queues together. */
export interface SystemStats extends MessageCounts {
  queues: number;
  workers: WorkerCounts;
  /** Version of pg-sluice's schema. */
  schemaVersion: number;
  /** The same in the terms of pgqrs 0.15.3. */
  pgqrs: PgqrsSystemStats;
}

/** What `system_stats` of pgqrs 0.15.3 says. */
export interface PgqrsSystemStats {
  totalQueues: number;
  totalWorkers: number;
  /** Workers that are `ready`. */
  activeWorkers: number;
  /** Without archived ones, unlike a queue's `totalMessages`. */
  totalMessages: number;
  pendingMessages: number;
  lockedMessages: number;
  archivedMessages: number;
}

/** Workers of one queue, or all of them, and how many have gone silent. */
export interface WorkerHealthStats extends WorkerCounts {
  /** Null: in a list by queue the workers of no queue (pgqrs' "Admin"), otherwise all workers (pgqrs' "Global"). */
  queue: string | null;
  /** Ready or polling, by the table, and without a heartbeat for longer than the timeout. */
  stale: number;
}

/** The workers of one queue. */
export interface WorkerStats extends WorkerCounts {
  /** Unarchived messages that have one of them as consumer, per worker: stopped ones and producers count too. */
  averageMessagesPerWorker: number;
  /** Since the worker that started first did so. Null: there are no workers. */
  oldestWorkerAgeSeconds: number | null;
  /** Since the last heartbeat of any of them. Null: there are no workers. */
  newestHeartbeatAgeSeconds: number | null;
}
