import type { ConfigOptions } from './config-source.js';

/** All limits of pgqrs 0.15.3 with its own values, and what else a `Config` sees otherwise. */
export const PGQRS_DEFAULTS = Object.freeze({
  pollIntervalMs: 250,
  maxPayloadBytes: 1_048_576,
  maxStringBytes: 1_024,
  maxDepth: 5,
  forbiddenKeys: Object.freeze(['__proto__', 'constructor']),
  requiredKeys: Object.freeze<string[]>([]),
  maxEnqueuePerSecond: 1_000,
  maxEnqueueBurst: 50,
  whenRateLimited: 'reject',
} satisfies ConfigOptions);
