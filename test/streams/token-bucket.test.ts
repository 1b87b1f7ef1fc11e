import { describe, expect, test } from 'vitest';
import { TokenBucket } from '../../streams/token-bucket.js';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

describe('a limiter that waits', () => {
  for (const perSecond of [0.5, 3, 1_000, 50_000, 200_000]) {
    for (const burst of [1, 100]) {
      test(`lets the exact number through in a minute at ${perSecond}/s with burst ${burst}, however late its timers`, () => {
        const { bucket, clock } = bucketWithClock(perSecond, burst);
        const startMs = clock.ms;
        let passed = 0;
        let worst = 0;
        for (let ticks = 0; clock.ms < startMs + MINUTE; ticks++) {
          let waitMs: number;
          while ((waitMs = bucket.reserve()) === 0) passed++;
          const earned = Math.floor(burst + ((clock.ms - startMs) * perSecond) / SECOND + 1e-6);
          worst = Math.max(worst, Math.abs(passed - earned));
          const dueMs = clock.ms + waitMs;
          clock.ms = Math.ceil(dueMs) + ((ticks * 7_919) % 150) / 10;
          bucket.makeUp(clock.ms - dueMs);
          passed++;
        }
        expect(worst).toBe(0);
        expect(passed).toBeGreaterThanOrEqual((perSecond * (MINUTE - 20)) / SECOND);
      });
    }
  }

  test('does not drift over a day at 200,000/s', () => {
    const { bucket, clock } = bucketWithClock(200_000, 1);
    const startMs = clock.ms;
    let reserved = 0;
    while (clock.ms < startMs + DAY) {
      clock.ms += bucket.reserve(1_777);
      reserved += 1_777;
    }
    // What the last batch still owes is in `available`.
    const earned = 1 + (clock.ms - startMs) * 200;
    expect(reserved + bucket.available - earned).toBeCloseTo(0, 1);
  });

  test('may use at once what came in while its timer was late, with burst 1 too', () => {
    const { bucket, clock } = bucketWithClock(200_000, 1);
    bucket.reserve();
    const waitMs = bucket.reserve();
    clock.ms += waitMs + 10;
    bucket.makeUp(10);
    expect(passNow(bucket)).toBe(2_000);
  });

  test('keeps its lateness through a hiccup of the source, less what the hiccup took beyond it', () => {
    const { bucket, clock } = bucketWithClock(1_000, 1);
    bucket.reserve();
    clock.ms += bucket.reserve() + 10;
    bucket.makeUp(10);
    clock.ms += 3; // 13 came in, the cap is 1 + 10: 2 are lost and the cap is lower by 2
    expect(bucket.available).toBeCloseTo(9);
  });

  test('keeps no more than burst over a pause, however late it was before', () => {
    const { bucket, clock } = bucketWithClock(1_000, 5);
    for (let i = 0; i < 5; i++) bucket.reserve();
    clock.ms += bucket.reserve() + 100;
    bucket.makeUp(100);
    clock.ms += HOUR;
    expect(bucket.available).toBe(5);
    expect(passNow(bucket)).toBe(5);
  });

  test('makes up for a second of its own lateness at most', () => {
    const { bucket, clock } = bucketWithClock(1_000, 1);
    bucket.reserve();
    clock.ms += bucket.reserve() + 10 * SECOND;
    bucket.makeUp(10 * SECOND);
    expect(passNow(bucket)).toBe(1_001);
  });

  test('has no lateness left once it waits again', () => {
    const { bucket, clock } = bucketWithClock(1_000, 1);
    bucket.reserve();
    clock.ms += bucket.reserve() + 10;
    bucket.makeUp(10);
    passNow(bucket);
    clock.ms += bucket.reserve();
    clock.ms += 5; // the source pauses; it is not the limiter that is late
    expect(bucket.available).toBeCloseTo(1);
  });

  test('charges a batch larger than burst to those after it', () => {
    const { bucket } = bucketWithClock(10, 10);
    expect(bucket.reserve(100)).toBe(0);
    expect(bucket.available).toBe(-90);
    expect(bucket.reserve()).toBeCloseTo(9.1 * SECOND);
    expect(bucket.reserve(100)).toBeCloseTo(10.1 * SECOND);
    expect(bucket.reserve()).toBeCloseTo(19.2 * SECOND);
  });
});

describe('a limiter that refuses', () => {
  test('starts full, takes all or nothing, and says how long it takes until there is enough', () => {
    const { bucket } = bucketWithClock(100, 50);
    expect(bucket.tryTake(30)).toBe(true);
    expect(bucket.tryTake(30)).toBe(false);
    expect(bucket.available).toBe(20);
    expect(bucket.waitMs(30)).toBeCloseTo(100);
    expect(bucket.tryTake(20)).toBe(true);
  });

  for (const perSecond of [0.1, 7, 1_000 / 3, 50_000]) {
    for (const uptimeMs of [0, 100 * DAY]) {
      test(`succeeds after exactly the wait it named, not before, at ${perSecond}/s after ${uptimeMs / DAY} days`, () => {
        const { bucket, clock } = bucketWithClock(perSecond, 3, uptimeMs);
        for (let round = 0; round < 1_000; round++) {
          const n = 1 + (round % 10);
          const waitMs = bucket.waitMs(n);
          clock.ms += waitMs * 0.9;
          if (waitMs > 0) expect(bucket.tryTake(n)).toBe(false);
          clock.ms += waitMs - waitMs * 0.9;
          expect(bucket.tryTake(n)).toBe(true);
        }
      });
    }
  }

  test('never gives more than burst and the rate allow, in any window', () => {
    const perSecond = 100;
    const burst = 20;
    const { bucket, clock } = bucketWithClock(perSecond, burst);
    const taken: { atMs: number; n: number }[] = [];
    for (let i = 0; i < 1_000; i++) {
      clock.ms += (i * 7_919) % 97 === 0 ? 10 * SECOND : (i * 104_729) % 120;
      const n = 1 + ((i * 31) % burst);
      if (bucket.tryTake(n)) taken.push({ atMs: clock.ms, n });
    }
    expect(taken.length).toBeGreaterThan(100);
    let worst = 0;
    for (const [first, { atMs }] of taken.entries()) {
      let sum = 0;
      for (const later of taken.slice(first)) {
        sum += later.n;
        worst = Math.max(worst, sum - burst - ((later.atMs - atMs) * perSecond) / SECOND);
      }
    }
    expect(worst).toBeCloseTo(0);
  });

  test('takes a batch larger than burst when it is full, and makes the next one wait for the debt', () => {
    const { bucket, clock } = bucketWithClock(1_000, 50);
    expect(bucket.tryTake(200)).toBe(true);
    expect(bucket.waitMs(200)).toBeCloseTo(200);
    clock.ms += 200;
    expect(bucket.tryTake(200)).toBe(true);
  });
});

test('what is given back is there again, but never more than the burst', () => {
  const { bucket, clock } = bucketWithClock(10, 5);
  expect(bucket.reserve(5)).toBe(0);
  expect(bucket.reserve(3)).toBeGreaterThan(0);
  bucket.giveBack(3);
  expect(bucket.available).toBe(0);
  bucket.giveBack(4);
  expect(bucket.available).toBe(4);
  bucket.giveBack(4);
  expect(bucket.available).toBe(5);
  clock.ms += SECOND;
  expect(bucket.available).toBe(5);
});

function bucketWithClock(perSecond: number, burst: number, startMs = 1_234.567) {
  const clock = { ms: startMs };
  return { clock, bucket: new TokenBucket({ perSecond, burst, now: () => clock.ms }) };
}

/** How many may pass without a wait; reserves one more. */
function passNow(bucket: TokenBucket): number {
  let passed = 0;
  while (bucket.reserve() === 0) passed++;
  return passed;
}
