import { expect, test } from 'vitest';
import { FULL } from '../support/total-queue.js';
import { chaos, CHAOS_MS, NONE } from './consume-chaos.js';

test(
  'consumers are killed, frozen and cut off: every message is handled, and accepted as done exactly once',
  async () => {
    const found = await chaos('consumers by run() and by messages()', ['run', 'messages']);
    expect(found.faults).toEqual(NONE);
    expect(found.wronglyRefused).toEqual([]);
    // What transactions are for; without them a kill between effect and acknowledgement shows.
    if (FULL) expect(found.counts.handledTwice).toBeGreaterThan(0);
  },
  CHAOS_MS + 180_000,
);
