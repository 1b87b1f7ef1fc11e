import { describe, expect, test } from 'vitest';
import { Pace } from '../../src/consume/pace.js';
import { seeded } from '../support/seeded.js';

/** A pace from a clock that the test moves on. */
function paced(atOnce: number, batchSize = 1) {
  let now = performance.now();
  const pace = new Pace(atOnce, batchSize);
  return {
    pass: (ms: number) => void (now += ms),
    began: () => pace.began(now),
    ended: () => pace.ended(now),
    ahead: () => pace.ahead(now),
  };
}

function handleOneByOne(pace: ReturnType<typeof paced>, count: number, ms: number): void {
  for (let n = 0; n < count; n++) {
    pace.began();
    pace.pass(ms);
    pace.ended();
  }
}

describe('messages ahead', () => {
  test('begin with one for each handler and grow with handlers that are quick', () => {
    const pace = paced(10);
    expect(pace.ahead()).toBe(10);
    handleOneByOne(pace, 20, 0.01);
    expect(pace.ahead()).toBeGreaterThan(100);
    handleOneByOne(pace, 2_000, 0.01);
    expect(pace.ahead()).toBe(6_000);
  });

  test('are what is handled in a tenth of a second', () => {
    const pace = paced(4);
    for (let n = 0; n < 4; n++) pace.began();
    for (let rounds = 0; rounds < 200; rounds++) {
      pace.pass(10);
      for (let n = 0; n < 4; n++) pace.ended();
      for (let n = 0; n < 4; n++) pace.began();
    }
    expect(pace.ahead()).toBeGreaterThanOrEqual(38);
    expect(pace.ahead()).toBeLessThanOrEqual(42);
  });

  test('are few again soon after handlers begin to hang, though none of them ends', () => {
    const pace = paced(10);
    handleOneByOne(pace, 100_000, 0.005);
    expect(pace.ahead()).toBe(6_000);
    for (let n = 0; n < 10; n++) pace.began();
    pace.pass(2_000);
    expect(pace.ahead()).toBeLessThan(20);
  });

  test('stay as they are while there is nothing to do', () => {
    const pace = paced(10);
    handleOneByOne(pace, 10_000, 0.01);
    const before = pace.ahead();
    pace.pass(3_600_000);
    expect(pace.ahead()).toBe(before);
  });

  test('come in whole batches', () => {
    const pace = paced(100, 50);
    handleOneByOne(pace, 30, 1);
    expect(pace.ahead()).toBeGreaterThan(100);
    expect(pace.ahead() % 50).toBe(0);
  });

  test('follow what is handled where lengths differ a thousandfold, and never leap beyond it', () => {
    // Of a hundred handlers one takes 2 s, the others 2 ms: about 450 a second, in bursts.
    const random = seeded(7);
    const pace = paced(10);
    const ends: number[] = [];
    const slot = () => (random() < 0.01 ? 2_000 : 2);
    for (let n = 0; n < 10; n++) {
      pace.began();
      ends.push(slot());
    }
    let handled = 0;
    let most = 0;
    for (let ms = 0; ms < 60_000; ms++) {
      for (const [at, end] of ends.entries()) {
        if (ms < end) continue;
        pace.ended();
        pace.began();
        ends[at] = ms + slot();
        handled++;
      }
      if (ms > 2_000) most = Math.max(most, pace.ahead());
      pace.pass(1);
    }
    expect(handled).toBeGreaterThan(10_000);
    // All ten of them short: 5,000 a second.
    expect(most).toBeLessThanOrEqual(550);
  });
});
