import * as check from './check.js';
import type { Config } from './config.js';
import type { ForeignLeases } from './types.js';
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
  const { defaultLockTimeSeconds, maxReadCount, pollIntervalMs, heartbeatIntervalSeconds } = config;
  return { lockSeconds: defaultLockTimeSeconds, maxReadCount, pollIntervalMs, heartbeatIntervalSeconds };
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
  };
}

export function checkLock(seconds: number, field = 'lockSeconds'): number {
  return check.number(field, seconds, { min: 0, max: 2_592_000 });
}
