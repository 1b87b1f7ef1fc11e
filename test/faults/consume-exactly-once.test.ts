import { expect, test } from 'vitest';
import { chaos, CHAOS_MS, NONE } from './consume-chaos.js';

test(
  'consumers in transactions are killed, frozen and cut off: what each message does is done exactly once',
  async () => {
    const found = await chaos('consumers in transactions', ['transaction']);
    expect(found.faults).toEqual(NONE);
    // Nothing but the transactions keeps an effect from being there twice: the table has no key.
    expect(found.effectsTwice).toEqual([]);
    expect(found.counts.effects).toBe(found.counts.archived);
  },
  CHAOS_MS + 180_000,
);
