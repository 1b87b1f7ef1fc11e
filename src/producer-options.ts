import type { StandardSchemaV1 } from '@standard-schema/spec';
import type pg from 'pg';
import * as check from './check.js';
import type { Config } from './config.js';
import type { CallersClient } from './db.js';
import { checkDelay } from './ingest/delay.js';
import { checkRetryOptions } from './ingest/writable-options.js';
import { Limiter } from './limiter.js';
import { schemaValidator } from './standard-schema.js';
import type { Due } from './sql/scheduled.js';
import type { Queue } from './types.js';
import { PayloadCheck, type PayloadRules } from './validation.js';
import type { WorkerOptions } from './worker.js';

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

export interface EnqueueOptions {
  /** Seconds until the message is due: a whole number from 0 to 4,294,967,295. @default 0 */
  delaySeconds?: number;
  /**
   * A client of yours: the message goes in as part of the transaction that it is in, and is there when that commits.
   * Consumers are told by the transaction itself. Never tried again.
   */
  client?: CallersClient;
  /** Only with `client`: whether consumers are told; otherwise the message waits for their next look. @default true */
  notify?: boolean;
  /**
   * Takes the message back if it aborts before it is sent, and then rejects with the signal's reason. Once it is sent,
   * an abort rejects with an AmbiguousEnqueueError: the message may be in.
   */
  signal?: AbortSignal;
}

/** A producer's share of the configuration. */
export function producerDefaults(config: Config): ProducerOptions {
  const { maxPayloadBytes, maxStringBytes, maxDepth, forbiddenKeys, requiredKeys } = config;
  const { maxEnqueuePerSecond, maxEnqueueBurst, whenRateLimited, heartbeatIntervalSeconds } = config;
  return {
    ...{ maxPayloadBytes, maxStringBytes, maxDepth, forbiddenKeys, requiredKeys },
    ...{ maxEnqueuePerSecond, maxEnqueueBurst, whenRateLimited, heartbeatIntervalSeconds },
  };
}

export function checkProducerOptions<In, Out>(options: ProducerOptions<In, Out>) {
  return {
    payloads: new PayloadCheck(options),
    validate: options.schema === undefined ? undefined : schemaValidator(options.schema),
    limiter: checkLimiter(options),
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

export function checkEnqueueOptions(options: EnqueueOptions): { delaySeconds: number } {
  const { delaySeconds = 0, client, signal } = options;
  if (client !== undefined) check.kind('client', client, 'a client of pg', isClient);
  if (signal !== undefined) check.kind('signal', signal, 'an AbortSignal', isSignal);
  return { delaySeconds: checkDelay(delaySeconds) };
}

function isClient(value: unknown): value is CallersClient {
  return typeof value === 'object' && value !== null && 'query' in value && typeof value.query === 'function';
}

function isSignal(value: unknown): value is AbortSignal {
  return value instanceof AbortSignal;
}

export function checkDue(value: unknown): Due {
  const due = check.kind('due', value, '{ delaySeconds } or { at }', isDue);
  if (!('at' in due)) return { delaySeconds: checkDelay(due.delaySeconds) };
  return { at: check.kind('at', due.at, 'a valid Date', isDate) };
}

function isDue(value: unknown): value is Due {
  return typeof value === 'object' && value !== null && ('at' in value || 'delaySeconds' in value);
}

function isDate(value: unknown): value is Date {
  return value instanceof Date && !Number.isNaN(value.getTime());
}
