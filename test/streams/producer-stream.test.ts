import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setImmediate as tick } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { closed, numbers } from '../ingest/support.js';
import { eventually } from '../support/eventually.js';
import { fakeSink, OPTIONS, soon, stream } from './fake-sink.js';

describe('batches', () => {
  test('hold batchSize items each, the last one what is left', async () => {
    const { stream: into, sent } = stream();
    await pipeline(Readable.from(numbers(25)), into);
    expect(sent.map(({ items }) => items)).toEqual([
      numbers(10),
      numbers(20).slice(10),
      numbers(25).slice(20),
    ]);
  });

  test('are full at batchBytes', async () => {
    const { stream: into, sent } = stream({ batchBytes: 30 });
    await pipeline(Readable.from(numbers(7)), into);
    expect(sent.map(({ items }) => items.length)).toEqual([3, 3, 1]);
  });

  test('are sent lingerMs after their first item', async () => {
    const { stream: into, sent } = stream({ lingerMs: 5 });
    into.write(1);
    into.write(2);
    await eventually('the batch', () => sent.length === 1);
    into.write(3);
    await eventually('the next one', () => sent.length === 2);
    expect(sent.map(({ items }) => items)).toEqual([[1, 2], [3]]);
    into.destroy();
  });

  test('whose linger time is over while all places are taken go on filling, and go as soon as one is free', async () => {
    const { stream: into, sent } = stream({ lingerMs: 1 }, fakeSink({ atOnce: false, concurrency: 1 }));
    into.write(0);
    await eventually('the first batch', () => sent.length === 1);
    into.write(1);
    const overdue = performance.now() + 20;
    await eventually('its linger time to be over', () => performance.now() > overdue);
    into.write(2);
    await soon();
    expect(sent).toHaveLength(1);
    sent[0]!.done.resolve();
    await eventually('the second batch', () => sent.length === 2);
    expect(sent[1]!.items).toEqual([1, 2]);
    into.destroy();
    sent[1]!.done.resolve();
    await closed(into);
  });
});

describe('back-pressure', () => {
  test.each([1, 2, 4])(
    'with %i in flight and one full batch more the source stands still, and goes on when a batch is committed',
    async (concurrency) => {
      const { stream: into, sent } = stream({}, fakeSink({ atOnce: false, concurrency }));
      let taken = 0;
      const source = function* () {
        for (; taken < 1_000; taken++) yield taken;
      };
      const loaded = pipeline(Readable.from(source()), into);
      await eventually('the batches in flight', () => sent.length === concurrency);
      await soon();
      const bound = (concurrency + 1) * OPTIONS.batchSize + into.writableHighWaterMark + 2;
      expect(taken).toBeGreaterThan(concurrency * OPTIONS.batchSize);
      expect(taken).toBeLessThanOrEqual(bound);
      expect(into.stats.accepted).toBe((concurrency + 1) * OPTIONS.batchSize);
      sent[0]!.done.resolve();
      await soon();
      expect(sent).toHaveLength(concurrency + 1);
      expect(into.stats.accepted).toBe((concurrency + 2) * OPTIONS.batchSize);
      for (let n = 0; n < 100; n++) {
        await eventually('a batch', () => sent.length > n);
        sent[n]!.done.resolve();
      }
      await loaded;
      expect(sent.flatMap(({ items }) => items)).toEqual(numbers(1_000));
    },
  );

  test('timers fire while a synchronous source is taken in', async () => {
    const { stream: into } = stream({ batchSize: 1_000_000 });
    let beats = 0;
    const heart = setInterval(() => beats++, 1);
    await pipeline(Readable.from(numbers(200_000)), into);
    clearInterval(heart);
    expect(beats).toBeGreaterThan(10);
  });
});

describe('one turn of the event loop', () => {
  /** The most items that were taken in one of them. */
  async function mostAtOnce(bytes: number): Promise<number> {
    const { stream: into } = stream({ batchSize: 1_000, batchBytes: 1e9 }, fakeSink({ bytes }));
    let most = 0;
    const loaded = pipeline(Readable.from(numbers(500)), into);
    for (let before = 0; !into.closed; before = into.stats.accepted) {
      await tick();
      most = Math.max(most, into.stats.accepted - before);
    }
    await loaded;
    return most;
  }

  test('takes in so many items while they are small, and few that are big', async () => {
    const small = await mostAtOnce(10);
    expect(small).toBeGreaterThan(100);
    expect(small).toBeLessThan(300);
    expect(await mostAtOnce(60_000)).toBeLessThan(10);
  });
});

describe('every way out', () => {
  test('finish waits for every batch', async () => {
    const { stream: into, sent, events, calls } = stream({}, fakeSink({ atOnce: false }));
    for (const n of numbers(15)) into.write(n);
    into.end();
    await eventually('both batches', () => sent.length === 2);
    sent[1]!.done.resolve();
    await soon();
    expect(events.finish).toBe(0);
    sent[0]!.done.resolve();
    await closed(into);
    expect(events).toMatchObject({ finish: 1, close: 1, error: 0 });
    expect(calls).toEqual({ open: 1, close: 1 });
  });

  test('a failed batch ends the stream once, whoever else fails too', async () => {
    const { stream: into, sent, events } = stream({}, fakeSink({ atOnce: false }));
    for (const n of numbers(40)) into.write(n);
    await eventually('both batches', () => sent.length === 2);
    const reason = new Error('refused');
    sent[0]!.done.reject(reason);
    await eventually('every batch to fail and the stream to close', () => {
      for (const { done } of sent) done.reject(new Error('refused too'));
      return into.closed;
    });
    expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason });
  });

  test('a batch that fails after end() is an error and no finish', async () => {
    const { stream: into, sent, events } = stream({}, fakeSink({ atOnce: false }));
    into.write(1);
    into.end();
    await eventually('the batch', () => sent.length === 1);
    sent[0]!.done.reject(new Error('refused'));
    await closed(into);
    expect(events).toMatchObject({ finish: 0, close: 1, error: 1 });
  });

  test('an item that cannot be stored ends the stream at its index, when the batches before it are in', async () => {
    const { stream: into, sent, events } = stream({}, fakeSink({ atOnce: false }));
    for (const n of [...numbers(13), -1, 14]) into.write(n);
    await eventually('the first batch', () => sent.length === 1);
    await soon();
    expect(events.error).toBe(0);
    sent[0]!.done.resolve();
    await closed(into);
    expect(events).toMatchObject({
      finish: 0,
      close: 1,
      error: 1,
      reason: { code: 'PAYLOAD_INVALID', index: 13, progress: { committed: 10, position: '10' } },
    });
    expect(sent).toHaveLength(1);
  });

  test('close waits until the batches in flight have ended', async () => {
    const { stream: into, sent, events, calls } = stream({}, fakeSink({ atOnce: false }));
    for (const n of numbers(20)) into.write(n);
    await eventually('both batches', () => sent.length === 2);
    into.destroy();
    await soon();
    expect([events.close, calls.close]).toEqual([0, 0]);
    for (const { done } of sent) done.resolve();
    await closed(into);
    expect(events).toMatchObject({ finish: 0, close: 1, error: 0 });
    expect(into.stats.committed).toBe(20);
  });

  test.each(['before it is made', 'while it opens', 'in the middle'])(
    'a signal that aborts %s',
    async (when) => {
      const abort = new AbortController();
      const opening = deferred();
      if (when === 'before it is made') abort.abort();
      if (when !== 'while it opens') opening.resolve();
      const { stream: into, events } = stream({}, fakeSink({ opened: opening.promise }), abort.signal);
      into.write(1);
      await tick();
      abort.abort();
      opening.reject(new Error('aborted'));
      await closed(into);
      expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason: { name: 'AbortError' } });
    },
  );

  test('a stream that cannot open reports that and nothing else', async () => {
    const opening = deferred();
    const { stream: into, events, sent } = stream({}, fakeSink({ opened: opening.promise }));
    into.write(1);
    const reason = new Error('no server');
    opening.reject(reason);
    await closed(into);
    expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason });
    expect(sent).toEqual([]);
  });

  test('what a listener of the batch event throws ends the stream', async () => {
    const { stream: into, events } = stream();
    const reason = new Error('bad listener');
    into.on('batch', () => {
      throw reason;
    });
    for (const n of numbers(10)) into.write(n);
    await closed(into);
    expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason });
  });
});

test('stats add up what batches say', async () => {
  const { stream: into } = stream();
  expect(into.stats).toMatchObject({ accepted: 0, committed: 0, rowsPerSecond: 0 });
  await pipeline(Readable.from(numbers(25)), into);
  expect(into.stats).toMatchObject({
    accepted: 25,
    committed: 25,
    bytes: 250,
    batches: 3,
    retries: 0,
    ms: { begin: 3, transfer: 6, turn: 9, commit: 12 },
  });
  expect(into.stats.rowsPerSecond).toBeGreaterThan(0);
});
