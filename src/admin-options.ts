import type { Names } from './check.js';
import type { ForeignLeases } from './types.js';

export interface MetricsOptions {
  /**
   * Deliveries after which a message that nobody holds counts as dead: what the consumers have as theirs.
   * @default the configuration's, which is 5
   */
  maxReadCount?: number;
}

export const METRICS: Names<MetricsOptions> = { maxReadCount: true };

export interface SweepOptions extends MetricsOptions {
  /** Only this queue. @default all queues */
  queue?: string;
  /**
   * Which expired last leases of pgqrs' own clients, which never renew, count as over; see ConsumerOptions.
   * @default 'stale'
   */
  foreignLeases?: ForeignLeases;
}

export const SWEEP: Names<SweepOptions> = { ...METRICS, queue: true, foreignLeases: true };

export interface WorkerHealthOptions {
  /** Silence in seconds after which a worker counts as stale. @default 60 */
  timeoutSeconds?: number;
  /** One row for each queue that has workers, instead of one for all workers. @default false */
  groupByQueue?: boolean;
}

export const WORKER_HEALTH: Names<WorkerHealthOptions> = { timeoutSeconds: true, groupByQueue: true };

export interface ListWorkersOptions {
  /** Only the workers of this queue. @default all workers */
  queue?: string;
  /** Only workers that are not stopped, but have been silent for longer than that, in seconds. @default all workers */
  staleForSeconds?: number;
}

export const LIST_WORKERS: Names<ListWorkersOptions> = { queue: true, staleForSeconds: true };

export interface ReclaimOptions {
  /** Only the workers of this queue. @default all workers */
  queue?: string;
  /** Silence in seconds after which a worker is taken for dead: some heartbeats at least. @default 60 */
  olderThanSeconds?: number;
}

export const RECLAIM: Names<ReclaimOptions> = { queue: true, olderThanSeconds: true };

export interface PurgeWorkersOptions {
  /** Only the workers of this queue. @default all workers */
  queue?: string;
  /** Only workers that have been silent for longer than that, in seconds. @default 604800 (a week) */
  olderThanSeconds?: number;
}

export const PURGE_WORKERS: Names<PurgeWorkersOptions> = { queue: true, olderThanSeconds: true };

export interface WorkerMessagesOptions {
  /** Longest list, from 1 to 10,000. @default 100 */
  limit?: number;
}

export const WORKER_MESSAGES: Names<WorkerMessagesOptions> = { limit: true };

/** How long a queue keeps what nobody needs, in seconds; null for ever. What is left out stays as it is. */
export interface RetentionOptions {
  /** Messages that were done. */
  archiveSeconds?: number | null;
  /** Dead letters. */
  deadLetterSeconds?: number | null;
}

export const RETENTION: Names<RetentionOptions> = { archiveSeconds: true, deadLetterSeconds: true };

export interface InstallOptions {
  /**
   * Whether messages that pgqrs' own clients, or plain SQL, insert wake consumers at once: true makes it so, false takes
   * it away. Their transactions then hold a lock of all notifications while they commit. Ours pay nothing.
   * @default as it is; not so at first
   */
  notifyForeign?: boolean;
}

export const INSTALL: Names<InstallOptions> = { notifyForeign: true };

export interface CreateQueueOptions {
  /** What to do where there is a queue of that name: fail, or open it. @default 'fail' */
  ifExists?: 'fail' | 'open';
}

export const CREATE_QUEUE: Names<CreateQueueOptions> = { ifExists: true };
