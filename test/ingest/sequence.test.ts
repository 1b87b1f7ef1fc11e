// Long because places, pace and retries of a sequence are told by one small language of steps.
import { setImmediate as tick } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { ConnectionError, QueueNotFoundError } from '../../src/errors/index.js';
import { Sequence, type SequenceOptions, type Turn } from '../../src/ingest/sequence.js';
import { within } from '../support/eventually.js';

const lost = () => new ConnectionError('lost', true);
const refused = () => new QueueNotFoundError('work');

interface Job {
  n: number;
  run: (turn: Turn, attempt: number) => Promise<void>;
  attempts: number;
}

/** A sequence of jobs that say themselves how each attempt goes. */
function sequence(options: Partial<SequenceOptions<Job>> = {}) {
  const retries: { seq: number; attempt: number }[] = [];
  const made = new Sequence<Job>((job, turn) => job.run(turn, ++job.attempts), {
    places: 4,
    pace: () => Promise.resolve(),
    retry: { retries: 3, baseMs: 1, maxMs: 2 },
    turnMs: 10_000,
    signal: new AbortController().signal,
    onRetry: (seq, attempt) => retries.push({ seq, attempt }),
    again: () => Promise.resolve(false),
    ...options,
  });
  const send = (n: number, run: Job['run']) => made.send({ n, run, attempts: 0 });
  return { send, retries, place: () => made.place() };
}

/** An attempt that goes well and notes its two moments. */
const noting =
  (log: string[], name: string, transfer: () => Promise<unknown> = () => Promise.resolve()): Job['run'] =>
  async (turn) => {
    await turn.toBegin();
    log.push(`begin ${name}`);
    turn.begun();
    await transfer();
    await turn.toCommit();
    log.push(`commit ${name}`);
  };

describe('batches overlap, but begin and commit in order', () => {
  test('a later batch transfers while an earlier one does, and commits after it', async () => {
    const log: string[] = [];
    const { send } = sequence();
    const slow = deferred();
    const first = send(
      1,
      noting(log, '1', () => slow.promise),
    );
    const second = send(2, noting(log, '2'));
    const third = send(3, noting(log, '3'));
    while (log.length < 3) await tick();
    expect(log).toEqual(['begin 1', 'begin 2', 'begin 3']);
    slow.resolve();
    expect(await Promise.all([first, second, third])).toEqual([1, 2, 3]);
    expect(log.slice(3)).toEqual(['commit 1', 'commit 2', 'commit 3']);
  });

  test('an attempt waits to begin until the one before has its transaction', async () => {
    const log: string[] = [];
    const { send } = sequence();
    const connecting = deferred();
    const first = send(1, async (turn) => {
      await connecting.promise;
      await noting(log, '1')(turn, 1);
    });
    const second = send(2, noting(log, '2'));
    await tick();
    expect(log).toEqual([]);
    connecting.resolve();
    await Promise.all([first, second]);
    expect(log.filter((entry) => entry.startsWith('begin'))).toEqual(['begin 1', 'begin 2']);
  });
});

describe('the places', () => {
  test.each([1, 2, 4])(
    'are %i; the next batch has one when another has ended, however it has',
    async (places) => {
      const { send, place } = sequence({ places });
      const ends = Array.from({ length: places }, () => deferred());
      const sent = [];
      for (const end of ends) {
        await within(1_000, 'a place', place());
        sent.push(send(1, () => end.promise));
      }
      let granted = false;
      const next = place().then(() => (granted = true));
      for (let i = 0; i < 10; i++) await tick();
      expect(granted).toBe(false);
      if (places === 1) ends[0]!.reject(refused());
      else ends[0]!.resolve();
      await within(1_000, 'the next place', next);
      for (const end of ends) end.resolve();
      await Promise.allSettled(sent);
    },
  );

  test('batches are paced one at a time, in order, before they begin', async () => {
    const log: string[] = [];
    const paces = [1, 2, 3].map(() => deferred());
    const { send } = sequence({
      pace: async ({ n }) => {
        log.push(`pace ${n}`);
        await paces[n - 1]!.promise;
      },
    });
    const all = [1, 2, 3].map((n) => send(n, noting(log, String(n))));
    for (let i = 0; i < 10; i++) await tick();
    expect(log).toEqual(['pace 1']);
    paces[1]!.resolve();
    paces[0]!.resolve();
    await all[1];
    expect(log.filter((entry) => entry.startsWith('pace'))).toEqual(['pace 1', 'pace 2', 'pace 3']);
    expect(log).toContain('commit 2');
    expect(log).not.toContain('begin 3');
    paces[2]!.resolve();
    await Promise.all(all);
  });

  test('a batch that cannot be paced takes those behind it along', async () => {
    const gone = refused();
    const { send } = sequence({ pace: ({ n }) => (n === 2 ? Promise.reject(gone) : Promise.resolve()) });
    const results = await Promise.allSettled([1, 2, 3].map((n) => send(n, noting([], String(n)))));
    expect(results).toMatchObject([{ status: 'fulfilled' }, { reason: gone }, { reason: gone }]);
  });
});

describe('go back N', () => {
  test('when a middle batch fails the later ones begin again after it, and the earlier ones go on', async () => {
    const log: string[] = [];
    const { send, retries } = sequence();
    const slow = deferred();
    const middle = deferred();
    const all = [
      send(
        1,
        noting(log, '1', () => slow.promise),
      ),
      send(
        2,
        noting(log, '2', () => (log.includes('fail') ? Promise.resolve() : middle.promise)),
      ),
      send(3, noting(log, '3')),
    ];
    while (log.length < 3) await tick();
    log.push('fail');
    middle.reject(lost());
    while (log.length < 6) await tick();
    slow.resolve();
    await Promise.all(all);
    expect(log).toEqual([
      ...['begin 1', 'begin 2', 'begin 3', 'fail', 'begin 2', 'begin 3'],
      ...['commit 1', 'commit 2', 'commit 3'],
    ]);
    expect(retries).toEqual([{ seq: 2, attempt: 1 }]);
  });

  test('an attempt that went back cannot begin in the place of the one that follows it', async () => {
    const log: string[] = [];
    const { send } = sequence();
    const beginning = deferred();
    const again = deferred();
    const all = [
      send(1, async (turn, attempt) => {
        await turn.toBegin();
        turn.begun();
        // The failure aborts batch 2 just when the answer to its BEGIN is there.
        if (attempt === 1) {
          await beginning.promise;
          throw lost();
        }
        await again.promise;
      }),
      send(2, async (turn, attempt) => {
        await turn.toBegin();
        if (attempt === 1) {
          beginning.resolve();
          while (!turn.signal.aborted) await tick();
          turn.begun();
          for (let i = 0; i < 5; i++) await tick();
          turn.signal.throwIfAborted();
        }
        await again.promise;
        log.push('begin 2');
        turn.begun();
        await turn.toCommit();
      }),
      send(3, async (turn) => {
        await turn.toBegin();
        if (!turn.signal.aborted) log.push('begin 3');
        turn.begun();
        await turn.toCommit();
      }),
    ];
    for (let i = 0; i < 50; i++) await tick();
    again.resolve();
    await Promise.all(all);
    expect(log).toEqual(['begin 2', 'begin 3']);
  });

  test('a turn that is long in coming is given back, and the batch is sent again after the one before', async () => {
    const log: string[] = [];
    const { send, retries } = sequence({ turnMs: 5 });
    const slow = deferred();
    let attempts = 0;
    const first = send(
      1,
      noting(log, '1', () => slow.promise),
    );
    const second = send(2, async (turn, attempt) => {
      attempts = attempt;
      try {
        await noting(log, '2')(turn, attempt);
      } catch (error) {
        slow.resolve();
        throw error;
      }
    });
    await within(5_000, 'both batches', Promise.all([first, second]));
    expect(log).toEqual(['begin 1', 'begin 2', 'commit 1', 'begin 2', 'commit 2']);
    expect(attempts).toBe(2);
    expect(retries).toEqual([]);
  });
});

describe('the ways to fail', () => {
  test('a permanent failure ends its batch and the later ones at once, without a retry', async () => {
    const log: string[] = [];
    const { send, retries } = sequence();
    const results = await Promise.allSettled([
      send(1, noting(log, '1')),
      send(
        2,
        noting(log, '2', () => Promise.reject(refused())),
      ),
      send(3, noting(log, '3')),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected']);
    expect(results[2]).toMatchObject({ reason: { code: 'QUEUE_NOT_FOUND' } });
    expect(retries).toEqual([]);
  });

  test('a permanent failure waits for the earlier batches, so that it never costs them their commit', async () => {
    const log: string[] = [];
    const { send } = sequence();
    const slow = deferred();
    const first = send(
      1,
      noting(log, '1', () => slow.promise),
    ).finally(() => log.push('done 1'));
    const second = send(
      2,
      noting(log, '2', () => Promise.reject(refused())),
    ).catch(() => log.push('failed 2'));
    for (let i = 0; i < 20; i++) await tick();
    expect(log).not.toContain('failed 2');
    slow.resolve();
    await Promise.all([first, second]);
    expect(log.slice(-3)).toEqual(['commit 1', 'done 1', 'failed 2']);
  });

  test('retries are counted by batch and end', async () => {
    const { send, retries } = sequence();
    const failing = send(1, () => Promise.reject(lost()));
    await expect(failing).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
    expect(retries.map(({ attempt }) => attempt)).toEqual([1, 2, 3]);
  });

  test('a batch that is sent again in another way costs no retry', async () => {
    const { send, retries } = sequence({ again: (job) => Promise.resolve(job.attempts === 1) });
    const sent = await send(1, async (turn, attempt) => {
      await turn.toBegin();
      if (attempt === 1) throw refused();
    });
    expect(sent).toBe(1);
    expect(retries).toEqual([]);
  });

  test.each(['toBegin', 'toCommit', 'transfer', 'back-off'])(
    'an abort during %s ends every batch',
    async (where) => {
      const stream = new AbortController();
      const { send } = sequence({
        signal: stream.signal,
        retry: { retries: 3, baseMs: 60_000, maxMs: 60_000 },
      });
      const log: string[] = [];
      const untilAborted = (signal: AbortSignal) =>
        new Promise<void>((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason as Error));
        });
      const all = [1, 2, 3].map((n) =>
        send(n, async (turn) => {
          if (where === 'back-off') throw lost();
          if (where === 'toBegin' && n === 1) await untilAborted(turn.signal);
          await turn.toBegin();
          turn.begun();
          if (where === 'transfer' || n === 1) await untilAborted(turn.signal);
          await turn.toCommit();
          log.push(`commit ${n}`);
        }),
      );
      for (let i = 0; i < 5; i++) await tick();
      const reason = new Error('enough');
      stream.abort(reason);
      const results = await within(5_000, 'the batches', Promise.allSettled(all));
      for (const result of results) expect(result).toMatchObject({ status: 'rejected', reason });
      expect(log).toEqual([]);
      await expect(send(4, () => Promise.resolve())).rejects.toBe(reason);
    },
  );
});

/** Numbers from 0 to 1, the same ones for the same seed. */
function seeded(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

test.each([1, 2, 3, 4, 5, 6, 7, 8])(
  'random failures, answers that get lost and places in flight never break the order or the count (seed %i)',
  async (seed) => {
    const random = seeded(seed);
    const batches = 250;
    const places = 1 + (seed % 4);
    const pause = async () => {
      for (let i = Math.floor(random() * 4); i > 0; i--) await tick();
    };
    const fail = (chance: number) => {
      if (random() < chance) throw lost();
    };
    const committed: number[] = [];
    const begunAt = new Map<number, number>();
    let clock = 0;
    let lostAnswers = 0;
    const { send } = sequence({
      retry: { retries: 100, baseMs: 0.01, maxMs: 0.1 },
      turnMs: random() < 0.5 ? 1 : 10_000,
    });
    const run = (n: number) => async (turn: Turn) => {
      await turn.toBegin();
      if (committed.at(-1) === n) return; // the ledger's answer
      await pause();
      fail(0.05);
      turn.signal.throwIfAborted();
      begunAt.set(n, ++clock);
      turn.begun();
      await pause();
      fail(0.1);
      turn.signal.throwIfAborted();
      await turn.toCommit();
      fail(0.05);
      expect(committed.length).toBe(n - 1);
      committed.push(n);
      await pause();
      if (random() < 0.1) {
        lostAnswers++;
        throw lost();
      }
    };
    const inFlight = new Set<Promise<unknown>>();
    for (let n = 1; n <= batches; n++) {
      const sending = send(n, run(n)).finally(() => inFlight.delete(sending));
      inFlight.add(sending);
      if (inFlight.size === places) await Promise.race(inFlight);
    }
    await within(30_000, 'all batches', Promise.all(inFlight));
    expect(committed).toEqual(Array.from({ length: batches }, (_, i) => i + 1));
    const times = [...begunAt].sort(([a], [b]) => a - b).map(([, time]) => time);
    expect(times).toEqual([...times].sort((a, b) => a - b));
    expect(lostAnswers).toBeGreaterThan(5);
  },
);
