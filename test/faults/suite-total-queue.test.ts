import { expect, test } from 'vitest';
import { numbers } from '../ingest/support.js';
import { expectFlawless, judge } from '../support/total-queue.js';

const FLAWLESS = { lost: [], unexpected: [], duplicated: [], outOfOrder: [], recovered: 0 };
const history = (...delivered: number[]) => ({ attempted: 6, acknowledged: 4, delivered });

test('the checker tells each fault from the others', () => {
  expect(judge(history(0, 1, 2, 3))).toEqual(FLAWLESS);
  expect(judge(history(0, 1, 2, 3, 4))).toEqual({ ...FLAWLESS, recovered: 1 });
  expect(judge(history(0, 1, 3))).toEqual({ ...FLAWLESS, lost: [2] });
  expect(judge(history(0, 1, 2, 3, 6, -1))).toEqual({ ...FLAWLESS, unexpected: [6, -1] });
  expect(judge(history(0, 1, 1, 1, 2, 3))).toEqual({ ...FLAWLESS, duplicated: [1] });
  expect(judge(history(0, 2, 1, 3))).toEqual({ ...FLAWLESS, outOfOrder: [1] });
  expect(judge(history(1, 2, 3, 0, 0))).toEqual({ ...FLAWLESS, duplicated: [0], outOfOrder: [0, 0] });
});

test('a long history without a fault passes, and one with a fault fails', () => {
  expectFlawless({ attempted: 1_000_000, acknowledged: 1_000_000, delivered: numbers(1_000_000) });
  expect(() => expectFlawless(history(0, 2, 3))).toThrow();
});
