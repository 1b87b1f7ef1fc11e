import type pg from 'pg';
import * as check from './check.js';
import type { Config } from './config.js';
import { type Backoff, retryPolicy } from './consume/retry-policy.js';
import type { ForeignLeases, Queue } from './types.js';
import type { WorkerOptions } from './worker.js';

export interface ConsumerOptions extends WorkerOptions {
  /** Length of a lease, in seconds: a message that is not settled by then comes back. @default 30 */
  lockSeconds?: number;
  /** Deliveries after which a message is not delivered any more. @default 5 */
  maxReadCount?: number;
  /** Longest time between two looks at an empty queue, in ms; notifications and due times shorten it. @default 1000 */
  pollIntervalMs?: number;
  /**
   * Expired leases of pg-sluice consumers come back by themselves. Those of pgqrs' own clients, which never renew:
   * `never`; `stale`, when both lease and heartbeat ended 60 seconds ago or earlier; `expired`, like ours.
   * @default 'stale'
   */
  foreignLeases?: ForeignLeases;
  /**
   * How long a message waits after a failure before it is delivered again.
   * @default { baseSeconds: 1, maxSeconds: 3600 }, doubling each time, with jitter
   */
  backoff?: Backoff;
  /** Most messages in one batch of `runBatch`. @default 100 */
  batchSize?: number;
  /**
   * Seconds between two rounds of what any consumer does for its queue: messages that were delivered too often become
   * dead letters, and what has been kept for longer than an operator wants is deleted. @default 30
   */
  housekeepingIntervalSeconds?: number;
}

/** How a consumer is made over a pool of the caller's. */
export interface ConsumerCreateOptions extends ConsumerOptions {
  pool: pg.Pool;
  queue: Queue;
  config: Config;
}

export interface LeaseOptions {
  /** Length of the lease, in seconds. @default the consumer's */
  lockSeconds?: number;
}

export interface MessagesOptions extends LeaseOptions {
  /**
   * Messages claimed ahead of the reader. The lease runs while they wait: it must outlast the time in which that
   * many are handled. @default 100
   */
  prefetch?: number;
  /** Ends the stream at once when it aborts: with an AbortError whose `cause` is the signal's reason. */
  signal?: AbortSignal;
}

/** A consumer's share of the configuration. */
export function consumerDefaults(config: Config): ConsumerOptions {
  const { maxReadCount, pollIntervalMs, heartbeatIntervalSeconds } = config;
  return {
    lockSeconds: config.defaultLockTimeSeconds,
    batchSize: config.defaultMaxBatchSize,
    maxReadCount,
    pollIntervalMs,
    heartbeatIntervalSeconds,
  };
}

/** Every setting of a consumer itself, checked, with its default. */
export function checkOptions(options: ConsumerOptions) {
  return {
    lockSeconds: checkLock(options.lockSeconds ?? 30),
    maxReadCount: check.integer('maxReadCount', options.maxReadCount ?? 5, { min: 1, max: 2_147_483_647 }),
    pollIntervalMs: check.integer('pollIntervalMs', options.pollIntervalMs ?? 1_000, {
      min: 1,
      max: 3_600_000,
    }),
    foreignLeases: check.oneOf('foreignLeases', options.foreignLeases ?? 'stale', [
      'never',
      'stale',
      'expired',
    ]),
    batchSize: check.integer('batchSize', options.batchSize ?? 100, { min: 1, max: 100_000 }),
    retryPolicy: retryPolicy(options.backoff ?? {}),
    housekeepingIntervalSeconds: check.number(
      'housekeepingIntervalSeconds',
      options.housekeepingIntervalSeconds ?? 30,
      { min: 0.01, max: 86_400 },
    ),
  };
}

export function checkLock(seconds: number, field = 'lockSeconds'): number {
  return check.leaseSeconds(field, seconds);
}
