import { describe, expect, test } from 'vitest';
import type { Room } from '../../streams/claim-loop.js';
import { MessageMemory, type Share } from '../../src/consume/memory.js';
import { seeded } from '../support/seeded.js';

const turn = () => new Promise((resolve) => setImmediate(resolve));

function memoryOf(limitBytes: number) {
  const memory = new MessageMemory();
  memory.limitBytes = limitBytes;
  return memory;
}

/** A claim that brings messages of that size, as many as it may. @returns their number */
function claim(share: Share, wanted: number, bytes: number): number {
  const room = share.room(share.fit(wanted));
  if (!room) return 0;
  return arrive(share, room, bytes);
}

function arrive(share: Share, room: Room, bytes: number): number {
  const count = Math.max(1, Math.min(room.limit, Math.floor(room.maxBytes / bytes)));
  share.claimed(room, count, count * bytes);
  return count;
}

describe('the memory for messages', () => {
  test('is a part of the heap by default, and what is no size is refused', () => {
    const memory = new MessageMemory();
    expect(memory.limitBytes).toBeGreaterThan(1_000_000);
    expect(memory.limitBytes).toBeLessThanOrEqual(64 * 1_024 * 1_024);
    expect(() => (memory.limitBytes = 0)).toThrow('limitBytes');
    expect(() => (memory.limitBytes = Number.NaN)).toThrow('limitBytes');
  });

  test('begins with a small claim, whatever is wanted, and goes on by the size of what came', () => {
    const share = memoryOf(10_000_000).share(() => undefined);
    const first = share.room(share.fit(5_000))!;
    expect(first.limit).toBeLessThanOrEqual(100);
    expect(first.maxBytes).toBeLessThanOrEqual(600_000);
    share.claimed(first, first.limit, first.limit * 10);
    expect(share.room(share.fit(5_000))!.limit).toBe(5_000);
  });

  test('is all for one that is alone', () => {
    const memory = memoryOf(1_000_000);
    const share = memory.share(() => undefined);
    let held = 0;
    for (let claimed; (claimed = claim(share, 1_000, 10_000)) > 0;) held += claimed;
    expect(held).toBe(100);
    expect(memory.heldBytes).toBe(1_000_000);
  });

  test('lets each hold one message of any size, but no second one beyond the limit', () => {
    const memory = memoryOf(100_000);
    for (let n = 0; n < 20; n++) {
      const share = memory.share(() => undefined);
      expect(claim(share, 10, 1_000_000)).toBe(1);
      expect(claim(share, 10, 1_000_000)).toBe(0);
    }
    expect(memory.heldBytes).toBe(20_000_000);
  });

  test('is shared equally as soon as what is held becomes free, where several want more', async () => {
    const memory = memoryOf(1_000_000);
    const held = new Map<Share, number>();
    const claimFor = (share: Share) => held.set(share, (held.get(share) ?? 0) + claim(share, 100, 10_000));
    const shares = Array.from({ length: 4 }, () => {
      const share: Share = memory.share(() => claimFor(share));
      return share;
    });
    const [first] = shares as [Share];
    for (let n = 0; n < 20; n++) claimFor(first);
    expect(held.get(first)).toBe(100);
    for (const share of shares) claimFor(share);
    for (let step = 0; step < 1_000; step++) {
      const most = shares.toSorted((a, b) => b.heldBytes - a.heldBytes)[0]!;
      held.set(most, held.get(most)! - 1);
      most.free(10_000);
      await turn();
    }
    for (const share of shares) {
      expect(held.get(share)).toBeGreaterThanOrEqual(20);
      expect(held.get(share)).toBeLessThanOrEqual(30);
    }
    // Those that end leave the others all of it.
    for (const share of shares.slice(1)) {
      share.end();
      share.free(share.heldBytes);
    }
    for (let n = 0; n < 20; n++) claimFor(first);
    expect(held.get(first)).toBe(100);
  });

  test('asks nobody who wants nothing any more to make room for others', async () => {
    const memory = memoryOf(100_000);
    const idle = memory.share(() => undefined);
    const busy = memory.share(() => undefined);
    expect(claim(busy, 100, 1_000)).toBeGreaterThan(0);
    while (claim(busy, 100, 1_000) > 0);
    claim(idle, 100, 1_000); // it wanted more, and got one
    idle.free(1_000);
    busy.free(10_000);
    await turn();
    while (claim(busy, 100, 1_000) > 0);
    expect(busy.heldBytes).toBe(100_000);
  });

  test('a claim that fails leaves nothing behind', () => {
    const memory = memoryOf(100_000);
    const share = memory.share(() => undefined);
    share.claimed(share.room(10)!, 0, 0);
    expect(memory.heldBytes).toBe(0);
  });

  test('never holds more than the limit and one message for each, whatever comes and goes', () => {
    const random = seeded(5);
    const most = 5_000;
    const memory = memoryOf(100_000);
    const shares = Array.from({ length: 10 }, () => memory.share(() => undefined));
    const held = new Map(shares.map((share) => [share, [] as number[]]));
    for (let step = 0; step < 20_000; step++) {
      const share = shares[Math.floor(random() * shares.length)]!;
      const mine = held.get(share)!;
      if (random() < 0.4) {
        const room = share.room(share.fit(1 + Math.floor(random() * 50)));
        if (!room) continue;
        const sizes: number[] = [];
        let bytes = 0;
        while (sizes.length < room.limit) {
          const size = 1 + Math.floor(random() * most);
          if (bytes > 0 && bytes + size > room.maxBytes) break;
          bytes += size;
          sizes.push(size);
        }
        mine.push(...sizes);
        share.claimed(room, sizes.length, bytes);
      } else for (const size of mine.splice(0, 3)) share.free(size);
      expect(memory.heldBytes).toBeLessThanOrEqual(100_000 + shares.length * most);
    }
    for (const [share, sizes] of held) for (const size of sizes) share.free(size);
    expect(memory.heldBytes).toBe(0);
  });
});
