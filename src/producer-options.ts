import type { StandardSchemaV1 } from '@standard-schema/spec';
import type pg from 'pg';
import * as check from './check.js';
import type { Config } from './config.js';
import { checkRetryOptions } from './ingest/writable-options.js';
import { Limiter } from './limiter.js';
import { schemaValidator } from './standard-schema.js';
import type { Queue } from './types.js';
import { PAYLOAD_RULES, PayloadCheck, type PayloadRules, type PayloadRulesGiven } from './validation.js';
import { WORKER, type WorkerOptions } from './worker-registration.js';

export interface ProducerOptions<In = unknown, Out = In> extends WorkerOptions, Partial<PayloadRules> {
  /**
   * What payloads are like, by any validator that speaks Standard Schema (zod, valibot, arktype). It types the producer,
   * is asked before anything is sent, in streams too, and what it makes of a payload is what is stored.
   */
  schema?: StandardSchemaV1<In, Out> | undefined;
  /** Messages per second, on average; more than 0. Batches and streams count by message. @default no limit */
  maxEnqueuePerSecond?: number | undefined;
  /** Messages let through at once after a pause: a whole number of at least 1. @default 50 */
  maxEnqueueBurst?: number;
  /**
   * What becomes of calls that the limit has no room for: they wait for their turn, or reject with a RateLimitedError
   * that says when to try again. Streams always wait. @default 'wait'
   */
  whenRateLimited?: 'wait' | 'reject';
  /**
   * Deliveries after which consumers of the queue leave a message: such messages don't count for `maxBacklog`.
   * @default 5
   */
  maxReadCount?: number;
  /**
   * How often `enqueue`, `enqueueDelayed` and `batchEnqueue` try again when they certainly did nothing, for a reason
   * that passes: no connection, a deadlock, a server that starts. 0 turns it off. @default 3
   */
  retries?: number;
  /** Wait before the first of these retries, in ms; it doubles up to `retryMaxMs`, with jitter. @default 50 */
  retryBaseMs?: number;
  /** Longest wait before a retry, in ms. @default 5000 */
  retryMaxMs?: number;
}

/** How a producer is made over a pool of the caller's. */
export interface ProducerCreateOptions<In = unknown, Out = In> extends ProducerOptions<In, Out> {
  pool: pg.Pool;
  queue: Queue;
  config: Config;
}

export const PRODUCER: check.Names<ProducerOptions> = {
  ...WORKER,
  ...PAYLOAD_RULES,
  schema: true,
  maxEnqueuePerSecond: true,
  maxEnqueueBurst: true,
  whenRateLimited: true,
  maxReadCount: true,
  retries: true,
  retryBaseMs: true,
  retryMaxMs: true,
};
export const PRODUCER_CREATE: check.Names<ProducerCreateOptions> = {
  ...PRODUCER,
  pool: true,
  queue: true,
  config: true,
};

/** What a call says, and the configuration for the rest. */
export function producerSettings<In, Out>(
  call: string,
  config: Config,
  options: ProducerOptions<In, Out>,
): ProducerOptions<In, Out> {
  const given = check.options(call, options, PRODUCER);
  const { maxPayloadBytes, maxStringBytes, maxDepth, readableByPgqrs, forbiddenKeys, requiredKeys } = config;
  const { maxEnqueuePerSecond, maxEnqueueBurst, whenRateLimited } = config;
  const { heartbeatIntervalSeconds, maxReadCount } = config;
  return {
    ...{ maxPayloadBytes, maxStringBytes, maxDepth, readableByPgqrs, forbiddenKeys, requiredKeys },
    ...{ maxEnqueuePerSecond, maxEnqueueBurst, whenRateLimited, heartbeatIntervalSeconds, maxReadCount },
    ...given,
  };
}

export function checkProducerOptions<In, Out>(options: ProducerOptions<In, Out>) {
  const { maxPayloadBytes, maxStringBytes, maxDepth, readableByPgqrs, forbiddenKeys, requiredKeys } =
    options as PayloadRulesGiven;
  return {
    payloads: new PayloadCheck({
      maxPayloadBytes,
      maxStringBytes,
      maxDepth,
      readableByPgqrs,
      forbiddenKeys,
      requiredKeys,
    }),
    validate: options.schema === undefined ? undefined : schemaValidator(options.schema),
    limiter: checkLimiter(options),
    maxReadCount: check.integer('maxReadCount', options.maxReadCount ?? 5, { min: 1, max: 2_147_483_647 }),
    retry: checkRetryOptions(options, { retries: 3, retryBaseMs: 50, retryMaxMs: 5_000 }),
  };
}

function checkLimiter(options: Omit<ProducerOptions, 'schema'>): Limiter | undefined {
  const { maxEnqueuePerSecond: perSecond, maxEnqueueBurst = 50, whenRateLimited = 'wait' } = options;
  const burst = check.integer('maxEnqueueBurst', maxEnqueueBurst, { min: 1 });
  const whenLimited = check.oneOf('whenRateLimited', whenRateLimited, ['wait', 'reject']);
  if (perSecond === undefined) return undefined;
  return new Limiter({
    perSecond: check.number('maxEnqueuePerSecond', perSecond, { above: 0 }),
    burst,
    whenLimited,
  });
}
