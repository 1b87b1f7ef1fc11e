import { describe, expect, test } from 'vitest';
import { type Deferred, deferred } from '../../src/deferred.js';
import { ClaimLoop, type ClaimLoopOptions } from '../../streams/claim-loop.js';
import type { MessageSource } from '../../streams/message-stream.js';
import { eventually, within } from '../support/eventually.js';

interface Claim {
  limit: number;
  signal: AbortSignal;
  answer: Deferred<number[]>;
}

interface Wait {
  empty: number;
  signal: AbortSignal;
  over: Deferred<void>;
}

/** A loop over a source that answers when the test says so. */
function loopOver({
  prefetch = 10,
  ...options
}: Partial<Omit<ClaimLoopOptions<number>, 'prefetch'>> & { prefetch?: number } = {}) {
  const claims: Claim[] = [];
  const waits: Wait[] = [];
  const back: number[] = [];
  const got: number[] = [];
  const errors: Error[] = [];
  const state = { waiting: 0, running: 0, prefetch };
  const source: MessageSource<number> = {
    claim: ({ limit }, signal) => {
      const answer = deferred<number[]>();
      claims.push({ limit, signal, answer });
      return answer.promise;
    },
    wait: (empty, signal) => {
      const over = deferred();
      waits.push({ empty, signal, over });
      signal.addEventListener('abort', () => over.reject(signal.reason as Error));
      return over.promise;
    },
    giveBack: (messages) => {
      back.push(...messages);
      return Promise.resolve();
    },
    close: () => expect.unreachable(),
  };
  const loop = new ClaimLoop(source, {
    prefetch: () => state.prefetch,
    waiting: () => state.waiting,
    running: () => state.running,
    onMessages: (messages) => {
      got.push(...messages);
      state.waiting += messages.length;
    },
    onError: (error) => errors.push(error),
    ...options,
  });
  let next = 0;
  /** Answers the claim of that number with so many messages, or with all it asked for. */
  const answer = async (at: number, count = claims[at]!.limit) => {
    const messages = Array.from({ length: count }, () => next++);
    claims[at]!.answer.resolve(messages);
    await settled();
    return messages;
  };
  return { loop, claims, waits, back, got, errors, state, answer };
}

/** All promises that are ready have had their turn. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

const limits = (claims: Claim[]) => claims.map(({ limit }) => limit);

describe('room', () => {
  test('a claim asks for what there is room for, and no second one is made beside it', async () => {
    const { loop, claims, answer, got } = loopOver({ slots: 4 });
    loop.poke();
    loop.poke();
    loop.poke();
    expect(limits(claims)).toEqual([14]);
    const messages = await answer(0);
    expect(got).toEqual(messages);
    loop.poke();
    expect(claims).toHaveLength(1);
  });

  test('it claims again not before half of the room is free', async () => {
    const { loop, claims, state, answer } = loopOver();
    loop.poke();
    await answer(0);
    for (state.waiting = 9; state.waiting > 5; state.waiting--) {
      loop.poke();
      expect(claims).toHaveLength(1);
    }
    loop.poke();
    expect(limits(claims)).toEqual([10, 5]);
  });

  test('without a prefetch every free slot is filled', async () => {
    const { loop, claims, state, answer } = loopOver({ prefetch: 0, slots: 3 });
    loop.poke();
    await answer(0);
    Object.assign(state, { waiting: 0, running: 3 });
    loop.poke();
    expect(claims).toHaveLength(1);
    state.running = 2;
    loop.poke();
    expect(limits(claims)).toEqual([3, 1]);
  });

  test('more room is used at once, and less is kept to as soon as it is there', async () => {
    const { loop, claims, state, answer } = loopOver({ slots: 2 });
    loop.poke();
    await answer(0);
    state.prefetch = 50;
    loop.poke();
    expect(limits(claims)).toEqual([12, 40]);
    await answer(1);
    Object.assign(state, { prefetch: 4, waiting: 20 });
    loop.poke();
    expect(claims).toHaveLength(2);
    state.waiting = 2;
    loop.poke();
    expect(limits(claims)).toEqual([12, 40, 4]);
  });

  test('what is held never exceeds slots and prefetch, however slots come and go', async () => {
    const [slots, prefetch] = [5, 7];
    const { loop, claims, state, answer } = loopOver({ slots, prefetch, claims: 2 });
    let most = 0;
    let answered = 0;
    let seed = 42;
    const random = (below: number) => (seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31) % below;
    for (let step = 0; step < 2_000; step++) {
      if (random(2) === 0 && answered < claims.length) await answer(answered++);
      while (state.running < slots && state.waiting > 0) {
        state.waiting--;
        state.running++;
      }
      if (random(3) === 0 && state.running > 0) state.running--;
      loop.poke();
      const asked = limits(claims.slice(answered)).reduce((sum, limit) => sum + limit, 0);
      most = Math.max(most, asked + state.waiting + state.running);
      expect(claims.length - answered).toBeLessThanOrEqual(2);
    }
    expect(most).toBe(slots + prefetch);
  });
});

describe('claims at once', () => {
  test('two are under way only while the queue is full, and share the room', async () => {
    const { loop, claims, state, answer, waits } = loopOver({ prefetch: 10, slots: 10, claims: 2 });
    loop.poke();
    expect(limits(claims)).toEqual([10]);
    await answer(0);
    Object.assign(state, { waiting: 0, running: 0 });
    loop.poke();
    expect(limits(claims)).toEqual([10, 10, 10]);
    loop.poke();
    expect(claims).toHaveLength(3);
    await answer(1, 3);
    Object.assign(state, { waiting: 0 });
    loop.poke();
    // The other one is still under way: it decides whether it is time to wait.
    expect(waits).toHaveLength(0);
    expect(claims).toHaveLength(3);
    await answer(2, 0);
    expect(waits).toHaveLength(1);
    waits[0]!.over.resolve();
    await settled();
    expect(claims).toHaveLength(4);
  });

  test('a second claim that is full goes on, whatever the first one brought', async () => {
    const { loop, claims, state, answer, waits } = loopOver({ prefetch: 10, slots: 10, claims: 2 });
    loop.poke();
    await answer(0);
    state.waiting = 0;
    loop.poke();
    await answer(1, 0);
    await answer(2);
    expect(waits).toHaveLength(0);
    state.waiting = 0;
    loop.poke();
    expect(claims.length).toBe(5);
  });

  test('one at a time is the default', async () => {
    const { loop, claims, state, answer } = loopOver();
    loop.poke();
    await answer(0);
    state.waiting = 0;
    loop.poke();
    loop.poke();
    expect(claims).toHaveLength(2);
  });
});

describe('waiting', () => {
  test('after a short claim it waits once, and claims when that is over', async () => {
    const { loop, claims, waits, answer } = loopOver();
    loop.poke();
    await answer(0, 4);
    expect(waits.map(({ empty }) => empty)).toEqual([0]);
    for (let pokes = 0; pokes < 3; pokes++) loop.poke();
    expect([claims.length, waits.length]).toEqual([1, 1]);
    waits[0]!.over.resolve();
    await settled();
    expect(limits(claims)).toEqual([10, 6]);
  });

  test('it tells how many claims in a row have brought nothing', async () => {
    const { loop, waits, answer, state } = loopOver();
    loop.poke();
    for (const [at, count] of [0, 0, 0, 2, 0].entries()) {
      await answer(at, count);
      state.waiting = 0;
      waits[at]!.over.resolve();
      await settled();
    }
    expect(waits.map(({ empty }) => empty)).toEqual([1, 2, 3, 0, 1]);
  });

  test('it does not claim after a wait for which there is no room', async () => {
    const { loop, claims, waits, answer, state } = loopOver();
    loop.poke();
    await answer(0, 9);
    waits[0]!.over.resolve();
    await settled();
    expect(claims).toHaveLength(1);
    state.waiting = 0;
    loop.poke();
    expect(limits(claims)).toEqual([10, 10]);
  });
});

describe('the end', () => {
  test('what a claim under way still brings goes back, and nobody gets it', async () => {
    const { loop, claims, back, got, answer, errors } = loopOver();
    loop.poke();
    const reason = new Error('over');
    const ended = loop.end(reason);
    expect(claims[0]!.signal.reason).toBe(reason);
    const messages = await answer(0, 3);
    await within(1_000, 'the end', ended);
    expect(back).toEqual(messages);
    expect(got).toEqual([]);
    loop.poke();
    expect(claims).toHaveLength(1);
    expect(errors).toEqual([]);
  });

  test('it waits for both claims under way', async () => {
    const { loop, answer, state, back } = loopOver({ claims: 2, slots: 10 });
    loop.poke();
    await answer(0);
    state.waiting = 0;
    loop.poke();
    let over = false;
    const ended = loop.end(new Error('over')).then(() => (over = true));
    const first = await answer(1, 2);
    expect(over).toBe(false);
    const second = await answer(2, 1);
    await within(1_000, 'the end', ended);
    expect(back).toEqual([...first, ...second]);
  });

  test('it ends a wait, and a claim that fails meanwhile is no error', async () => {
    const { loop, claims, waits, answer, errors } = loopOver();
    loop.poke();
    await answer(0, 0);
    await within(1_000, 'the end', loop.end(new Error('over')));
    expect(waits[0]!.signal.aborted).toBe(true);
    expect(errors).toEqual([]);

    const other = loopOver();
    other.loop.poke();
    const ended = other.loop.end(new Error('over'));
    other.claims[0]!.answer.reject(new Error('late'));
    await within(1_000, 'the end', ended);
    expect(other.errors).toEqual([]);
    expect(claims).toHaveLength(1);
  });

  test('an error is told once and ends everything, though two claims fail', async () => {
    const { loop, claims, answer, state, errors } = loopOver({ claims: 2, slots: 10 });
    loop.poke();
    await answer(0);
    state.waiting = 0;
    loop.poke();
    const [first, second] = [new Error('first'), new Error('second')];
    claims[1]!.answer.reject(first);
    await eventually('the error', () => errors.length === 1);
    expect(claims[2]!.signal.reason).toBe(first);
    claims[2]!.answer.reject(second);
    await settled();
    loop.poke();
    expect(errors).toEqual([first]);
    expect(claims).toHaveLength(3);
    await within(1_000, 'the end', loop.end(new Error('over')));
  });

  test('after an error the other claim gives back what it brings', async () => {
    const { loop, claims, answer, state, back } = loopOver({ claims: 2, slots: 10 });
    loop.poke();
    await answer(0);
    state.waiting = 0;
    loop.poke();
    claims[1]!.answer.reject(new Error('first'));
    await settled();
    const messages = await answer(2, 4);
    expect(back).toEqual(messages);
  });

  test('an error of the wait is told as well', async () => {
    const { loop, waits, answer, errors } = loopOver();
    loop.poke();
    await answer(0, 0);
    waits[0]!.over.reject(new Error('no more'));
    await eventually('the error', () => errors.length === 1);
    expect(errors[0]!.message).toBe('no more');
  });
});
