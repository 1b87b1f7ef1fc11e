/*
 * How the statements of a routine are planned: once per connection, and always in the one way that is right whatever the
 * tables hold. Without that PostgreSQL plans for what it knows, and a plan that was made for an empty queue is kept when
 * 300,000 messages come at once: each claim then reads and sorts all of them, until autoanalyze has looked. What each
 * statement reads is looked at by test/sql/plans.test.ts.
 */
const planned = (...unwanted: string[]) =>
  [
    `plan_cache_mode to 'force_generic_plan'`,
    // Before 18 a step that cannot be avoided though unwanted costs 1e10, for which JIT would compile the statement.
    `jit to 'off'`,
    ...unwanted.map((step) => `enable_${step} to 'off'`),
  ]
    .map((setting) => `set ${setting}`)
    .join(' ');

/** Rows that are named are reached one by one, by key or by place. */
export const BY_KEY = planned('seqscan', 'bitmapscan', 'hashjoin', 'mergejoin');

/** Rows come in the order of an index, as many as are wanted. */
export const IN_ORDER = planned('seqscan', 'bitmapscan', 'sort');
