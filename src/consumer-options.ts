import type pg from 'pg';
import * as check from './check.js';
import type { Config } from './config.js';
import { type Backoff, retryPolicy } from './consume/retry-policy.js';
import type { ForeignLeases, Queue } from './types.js';
import { WORKER, type WorkerOptions } from './worker-registration.js';

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
   * Makes a payload of its JSON text: with numbers beyond 2^53 as BigInt, for example, which `JSON.parse` rounds, or the
   * text itself. Where it throws the message has failed, as if its handler had. @default JSON.parse
   *
   * @example
   * // Node 21 and later: the text of each number is there
   * const parsePayload = (json: string) =>
   *   JSON.parse(json, (_key, value, { source }) =>
   *     Number.isInteger(value) && !Number.isSafeInteger(value) ? BigInt(source) : value);
   */
  parsePayload?: (json: string) => unknown;
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

export const CONSUMER: check.Names<ConsumerOptions> = {
  ...WORKER,
  lockSeconds: true,
  maxReadCount: true,
  pollIntervalMs: true,
  foreignLeases: true,
  backoff: true,
  batchSize: true,
  parsePayload: true,
  housekeepingIntervalSeconds: true,
};
export const CONSUMER_CREATE: check.Names<ConsumerCreateOptions> = {
  ...CONSUMER,
  pool: true,
  queue: true,
  config: true,
};

export interface LeaseOptions {
  /** Length of the lease, in seconds. @default the consumer's */
  lockSeconds?: number;
}

export interface MessagesOptions {
  /** Length of the lease, in seconds, from 0.001 up. @default the consumer's */
  lockSeconds?: number;
  /**
   * Messages claimed ahead of the reader, whose leases are renewed while they wait; the reader gets each with a lease
   * that has just begun. @default what the reader gets done in a tenth of a second, at least 1 and at most 6000
   */
  prefetch?: number;
  /** Ends the stream at once when it aborts: with an AbortError whose `cause` is the signal's reason. */
  signal?: AbortSignal;
}

export const LEASE: check.Names<LeaseOptions> = { lockSeconds: true };
export const MESSAGES: check.Names<MessagesOptions> = { ...LEASE, prefetch: true, signal: true };

/** What a call says, and the configuration for the rest. */
export function consumerSettings(call: string, config: Config, options: ConsumerOptions): ConsumerOptions {
  const { maxReadCount, pollIntervalMs, heartbeatIntervalSeconds } = config;
  const given = check.options(call, options, CONSUMER);
  return {
    lockSeconds: config.defaultLockTimeSeconds,
    batchSize: config.defaultMaxBatchSize,
    maxReadCount,
    pollIntervalMs,
    heartbeatIntervalSeconds,
    ...given,
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
    parsePayload: check.kind(
      'parsePayload',
      options.parsePayload ?? ((json: string): unknown => JSON.parse(json)),
      'a function',
      (value): value is (json: string) => unknown => typeof value === 'function',
    ),
    housekeepingIntervalSeconds: check.number(
      'housekeepingIntervalSeconds',
      options.housekeepingIntervalSeconds ?? 30,
      { min: 0.01, max: 86_400 },
    ),
  };
}

/** Every setting of a message stream, checked. */
export function checkMessagesOptions(options: MessagesOptions, lockDefault: number) {
  const { prefetch, lockSeconds, signal } = check.options('consumer.messages()', options, MESSAGES);
  return {
    prefetch:
      prefetch === undefined ? undefined : check.integer('prefetch', prefetch, { min: 1, max: 100_000 }),
    lockSeconds: check.number('lockSeconds', lockSeconds ?? lockDefault, { min: 0.001, max: 2_592_000 }),
    signal: signal === undefined ? undefined : check.signal('signal', signal),
  };
}

export function checkLock(seconds: number, field = 'lockSeconds'): number {
  return check.leaseSeconds(field, seconds);
}
