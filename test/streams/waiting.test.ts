import { describe, expect, test, vi } from 'vitest';
import { Surplus } from '../../streams/surplus.js';
import { Waiting } from '../../streams/waiting.js';
import { seeded } from '../support/seeded.js';

function drained(waiting: Waiting<number>): number[] {
  const all: number[] = [];
  for (let message; (message = waiting.take()) !== undefined;) all.push(message);
  return all;
}

describe('waiting messages', () => {
  test('are taken in the order in which they came', () => {
    const waiting = new Waiting<number>();
    waiting.add([1, 2]);
    waiting.add([]);
    waiting.add([3]);
    expect(waiting.count).toBe(3);
    expect(drained(waiting)).toEqual([1, 2, 3]);
    expect([waiting.count, waiting.take(), waiting.waitedMs]).toEqual([0, undefined, 0]);
  });

  test.each([0, 1, 2, 3, 5, 6, 7])(
    'all beyond %i can be taken away, and the others stay in order',
    (keep) => {
      const waiting = new Waiting<number>();
      waiting.add([0, 1, 2, 3]);
      waiting.take();
      waiting.add([4, 5, 6]);
      expect(waiting.takeBeyond(keep)).toEqual([1, 2, 3, 4, 5, 6].slice(keep));
      expect(waiting.count).toBe(Math.min(keep, 6));
      waiting.add([7]);
      expect(drained(waiting)).toEqual([...[1, 2, 3, 4, 5, 6].slice(0, keep), 7]);
    },
  );

  test('are neither lost nor doubled, whatever comes and goes', () => {
    const random = seeded(3);
    const waiting = new Waiting<number>();
    const gone: number[] = [];
    let next = 0;
    for (let step = 0; step < 5_000; step++) {
      const dice = random();
      if (dice < 0.4) waiting.add(Array.from({ length: Math.floor(random() * 4) }, () => next++));
      else if (dice < 0.95) gone.push(...[waiting.take()].filter((message) => message !== undefined));
      else gone.push(...waiting.takeBeyond(Math.floor(random() * 10)));
      expect(waiting.count + gone.length).toBe(next);
    }
    gone.push(...drained(waiting));
    expect(gone.toSorted((a, b) => a - b)).toEqual(Array.from({ length: next }, (_, n) => n));
  });
});

describe('a surplus', () => {
  function watched(ahead: number) {
    vi.useFakeTimers();
    const waiting = new Waiting<number>();
    const back: number[] = [];
    const surplus = new Surplus({ waiting, ahead: () => ahead, giveBack: (some) => void back.push(...some) });
    return { waiting, back, surplus };
  }

  test('goes back once the first one has waited for long', () => {
    const { waiting, back, surplus } = watched(2);
    waiting.add([0, 1, 2, 3, 4, 5]);
    vi.advanceTimersByTime(400);
    expect(back).toEqual([]);
    vi.advanceTimersByTime(800);
    expect(back).toEqual([4, 5]);
    surplus.end();
    waiting.add([6, 7]);
    vi.advanceTimersByTime(5_000);
    expect(back).toEqual([4, 5]);
    vi.useRealTimers();
  });

  test('stays as long as messages move, and where there is none nothing goes back', () => {
    const { waiting, back, surplus } = watched(1);
    for (let n = 0; n < 50; n++) {
      waiting.add([n, n, n, n]);
      vi.advanceTimersByTime(100);
      for (let taken = 0; taken < 4; taken++) waiting.take();
    }
    vi.advanceTimersByTime(2_000);
    expect(back).toEqual([]);
    surplus.end();
    vi.useRealTimers();
  });
});
