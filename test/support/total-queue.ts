import { expect } from 'vitest';
import type { Scenario } from './scenario.js';
import { seedOfRun } from './seeded.js';

/** `SLUICE_FULL=1` runs the fault suite at full size (`npm run test:faults`); without it a smaller one is run. */
export const FULL = process.env.SLUICE_FULL === '1';

/** What went in and what came out; each message is its index, counted from 0. */
export interface History {
  /** Messages that were given to the queue: the first so many. */
  attempted: number;
  /** Of these, those that were confirmed: the first so many. */
  acknowledged: number;
  /** Those that came out, in their order. */
  delivered: readonly number[];
}

/** A verdict in the terms of Jepsen's total-queue: what goes in has to come out. */
export interface Verdict {
  /** Confirmed, and never came out. */
  lost: number[];
  /** Came out, and was never given. */
  unexpected: number[];
  /** Came out more often than once. */
  duplicated: number[];
  /** Came out behind one that was given later. */
  outOfOrder: number[];
  /** Not confirmed, and came out nevertheless: no fault. */
  recovered: number;
}

export function judge({ attempted, acknowledged, delivered }: History): Verdict {
  const times = new Uint8Array(attempted);
  const unexpected: number[] = [];
  const outOfOrder: number[] = [];
  let highest = -1;
  for (const message of delivered) {
    if (!(Number.isInteger(message) && message >= 0 && message < attempted)) {
      unexpected.push(message);
      continue;
    }
    times[message] = Math.min(times[message]! + 1, 2);
    if (message < highest) outOfOrder.push(message);
    highest = Math.max(highest, message);
  }
  const lost: number[] = [];
  const duplicated: number[] = [];
  let recovered = 0;
  times.forEach((n, message) => {
    if (n === 0 && message < acknowledged) lost.push(message);
    if (n > 1) duplicated.push(message);
    if (n > 0 && message >= acknowledged) recovered++;
  });
  return { lost, unexpected, duplicated, outOfOrder, recovered };
}

/** Fails with the first few messages of each fault. */
export function expectFlawless(history: History): void {
  const { recovered, ...faults } = judge(history);
  const told = Object.entries(faults).map(([fault, messages]) => [
    fault,
    { count: messages.length, first: messages.slice(0, 5) },
  ]);
  const none = { count: 0, first: [] };
  expect(Object.fromEntries(told), `recovered: ${recovered}`).toEqual({
    ...{ lost: none, unexpected: none, duplicated: none, outOfOrder: none },
  });
}

/** The field `n` of all payloads in the order of delivery; for millions of them too. */
export async function deliveredOf({ pool, schema }: Pick<Scenario, 'pool' | 'schema'>): Promise<number[]> {
  const { rows } = await pool.query<{ all: number[] | null }>(
    `select array_agg((payload->>'n')::int order by vt, id) as all from ${schema}.pgqrs_messages`,
  );
  return rows[0]?.all ?? [];
}

/** Says what a case has found, in one line that is easy to collect. */
export function report(name: string, found: Record<string, unknown>): void {
  console.info(`suite: ${name} ${JSON.stringify(found)}`);
}

/** The seed of a case: it is printed, and `SLUICE_SEED` plays the same case again. */
export function seedOf(name: string): number {
  const seed = seedOfRun();
  report(name, { seed });
  return seed;
}
