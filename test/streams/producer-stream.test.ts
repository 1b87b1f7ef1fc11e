import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setImmediate as tick } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { type Deferred, deferred } from '../../src/deferred.js';
import { PayloadInvalidError } from '../../src/errors/index.js';
import { type BatchOptions, ProducerStream } from '../../streams/producer-stream.js';
import type { Sink } from '../../streams/sink.js';
import { closed, counted, numbers } from '../ingest/support.js';
import { eventually } from '../support/eventually.js';

interface Sent {
  items: number[];
  done: Deferred<void>;
}

interface FakeOptions {
  atOnce?: boolean;
  opened?: Promise<void>;
  validate?: NonNullable<Sink<number>['validate']>;
}

/** A sink whose batches are committed when the test says so, or at once. */
function fakeSink({ atOnce = true, opened = Promise.resolve(), validate }: FakeOptions = {}) {
  const sent: Sent[] = [];
  let committed = 0;
  const calls = { open: 0, close: 0 };
  const sink: Sink<number> = {
    ...(validate && { validate }),
    open: () => {
      calls.open++;
      return opened.then(() => ({ position: '', index: 0 }));
    },
    batch: () => {
      const items: number[] = [];
      return {
        get count() {
          return items.length;
        },
        get bytes() {
          return items.length * 10;
        },
        append: (item, payload, index) => {
          if (item < 0) throw new PayloadInvalidError(index, 'negative');
          items.push(payload as number);
        },
        reject: () => false,
        send: async () => {
          const batch = { items, done: deferred() };
          const seq = sent.push(batch);
          if (atOnce) batch.done.resolve();
          await batch.done.promise;
          committed += items.length;
          return {
            ...{
              seq,
              rows: items.length,
              duplicates: 0,
              rejected: 0,
              bytes: items.length * 10,
              method: 'copy',
            },
            ...{
              resolved: false,
              position: String(committed),
              ms: { begin: 1, transfer: 2, turn: 3, commit: 4 },
            },
          };
        },
      };
    },
    close: () => {
      calls.close++;
      return Promise.resolve({ committed, position: String(committed) });
    },
  };
  return { sink, sent, calls };
}

const OPTIONS: BatchOptions = { batchSize: 10, batchBytes: 1_000_000, lingerMs: 60_000, concurrency: 2 };

function stream(options: Partial<BatchOptions> = {}, fake = fakeSink(), signal?: AbortSignal) {
  const made = new ProducerStream<number>(fake.sink, { ...OPTIONS, ...options }, signal);
  return { stream: made, events: counted(made), ...fake };
}

const soon = async () => {
  for (let i = 0; i < 20; i++) await tick();
};

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
    const { stream: into, sent } = stream({ lingerMs: 1, concurrency: 1 }, fakeSink({ atOnce: false }));
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
      const { stream: into, sent } = stream({ concurrency }, fakeSink({ atOnce: false }));
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

describe('validation', () => {
  test('gives the payload that is stored, item by item', async () => {
    const seen: [number, number][] = [];
    const validate = (item: number, index: number) => {
      seen.push([item, index]);
      return item * 2;
    };
    const { stream: into, sent } = stream({}, fakeSink({ validate }));
    await pipeline(Readable.from(numbers(25).map((n) => n + 100)), into);
    expect(sent.flatMap(({ items }) => items)).toEqual(numbers(25).map((n) => (n + 100) * 2));
    expect(sent.map(({ items }) => items.length)).toEqual([10, 10, 5]);
    expect(seen).toEqual(numbers(25).map((n) => [n + 100, n]));
  });

  test('that takes its time keeps the order, one item at a time', async () => {
    let running = 0;
    const validate = async (item: number) => {
      expect(++running).toBe(1);
      for (let i = 0; i < item % 4; i++) await tick();
      running--;
      return -item;
    };
    const { stream: into, sent, events } = stream({}, fakeSink({ validate: (n) => validate(n) }));
    await pipeline(Readable.from(numbers(95)), into);
    expect(sent.flatMap(({ items }) => items)).toEqual(numbers(95).map((n) => -n));
    expect(sent).toHaveLength(10);
    expect(into.stats).toMatchObject({ accepted: 95, committed: 95 });
    expect(events).toMatchObject({ finish: 1, close: 1, error: 0 });
  });

  test('goes on while the linger timer sends the batch, and its item goes into the next one', async () => {
    const slow = deferred<number>();
    const validate = (item: number) => (item === 1 ? slow.promise : item);
    const { stream: into, sent } = stream({ lingerMs: 5 }, fakeSink({ validate }));
    into.write(0);
    into.write(1);
    into.write(2);
    into.end();
    await eventually('the batch', () => sent.length === 1);
    slow.resolve(1);
    await closed(into);
    expect(sent.map(({ items }) => items)).toEqual([[0], [1, 2]]);
    expect(into.stats).toMatchObject({ accepted: 3, committed: 3, batches: 2 });
  });

  test('is waited for at the end', async () => {
    const slow = deferred<number>();
    const { stream: into, sent, events } = stream({}, fakeSink({ validate: () => slow.promise }));
    into.end(7);
    await soon();
    expect([events.finish, sent.length]).toEqual([0, 0]);
    slow.resolve(8);
    await closed(into);
    expect(sent.map(({ items }) => items)).toEqual([[8]]);
    expect(events).toMatchObject({ finish: 1, close: 1, error: 0 });
  });

  test('lets timers fire however fast it is', async () => {
    const validate = (item: number) => Promise.resolve(item);
    const { stream: into } = stream({ batchSize: 1_000_000 }, fakeSink({ validate }));
    let beats = 0;
    const heart = setInterval(() => beats++, 1);
    await pipeline(Readable.from(numbers(50_000)), into);
    clearInterval(heart);
    expect(beats).toBeGreaterThan(10);
  });

  test.each([
    ['throws', false],
    ['rejects', true],
  ])('that %s ends the stream at its index, when the batches before are in', async (_how, later) => {
    const refusal = (index: number) => new PayloadInvalidError(index, 'refused');
    const validate = (item: number, index: number) => {
      if (item !== 13) return later ? tick(item) : item;
      if (later) return tick().then(() => Promise.reject(refusal(index)));
      throw refusal(index);
    };
    const { stream: into, sent, events } = stream({}, fakeSink({ atOnce: false, validate }));
    const written = numbers(20).map(
      (n) =>
        new Promise<Error | undefined>((resolve) => into.write(n, (error) => resolve(error ?? undefined))),
    );
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
    const failed = (await Promise.all(written)).map((error) => error !== undefined);
    expect(failed).toEqual(numbers(20).map((n) => n >= 13));
  });

  test.each([
    ['destroy()', 'resolves', undefined],
    ['destroy()', 'rejects', undefined],
    ['destroy()', 'never settles', undefined],
    ['an abort', 'resolves', 'AbortError'],
    ['an abort', 'rejects', 'AbortError'],
  ])('%s while it runs writes nothing, whether it %s then', async (how, then, name) => {
    const slow = deferred<number>();
    const abort = new AbortController();
    const validate = (item: number) => (item === 5 ? slow.promise : item);
    const {
      stream: into,
      sent,
      events,
      calls,
    } = stream({ lingerMs: 1 }, fakeSink({ validate }), abort.signal);
    into.write(4);
    await eventually('the first batch', () => sent.length === 1);
    const called: (Error | null | undefined)[] = [];
    into.write(5, (error) => called.push(error));
    into.write(6, (error) => called.push(error));
    await soon();
    expect(called).toEqual([]);
    if (how === 'destroy()') into.destroy();
    else abort.abort();
    await closed(into);
    if (then === 'resolves') slow.resolve(5);
    else if (then === 'rejects') slow.reject(new Error('too late'));
    await soon();
    expect(called).toHaveLength(2);
    expect(called.every((error) => error instanceof Error)).toBe(true);
    expect(events).toMatchObject({ finish: 0, close: 1, error: name ? 1 : 0 });
    expect(events.reason?.name).toBe(name);
    expect(sent.map(({ items }) => items)).toEqual([[4]]);
    expect(into.stats).toMatchObject({ accepted: 1, committed: 1 });
    expect(calls).toEqual({ open: 1, close: 1 });
  });

  test.each(numbers(9))('that settles %i microtasks before a destroy() writes nothing', async (hops) => {
    const slow = deferred<number>();
    const fake = fakeSink({ validate: () => slow.promise });
    const { stream: into, sent, events } = stream({ lingerMs: 1 }, fake);
    const called: unknown[] = [];
    into.write(1, (error) => called.push(error));
    await soon();
    slow.resolve(1);
    for (let hop = 0; hop < hops; hop++) await Promise.resolve();
    into.destroy();
    await closed(into);
    const overdue = performance.now() + 5;
    await eventually('the linger time to be over', () => performance.now() > overdue);
    expect(called).toHaveLength(1);
    expect(sent).toEqual([]);
    expect(events).toMatchObject({ finish: 0, close: 1, error: 0 });
  });

  test('that ends the stream itself writes nothing', async () => {
    const fake = fakeSink({
      validate: (item) => {
        if (item === 2) into.destroy();
        return item;
      },
    });
    const { stream: into, sent, events } = stream({ batchSize: 2 }, fake);
    for (const n of numbers(10)) into.write(n);
    await closed(into);
    await soon();
    expect(sent.flatMap(({ items }) => items)).not.toContain(2);
    expect(events).toMatchObject({ finish: 0, close: 1, error: 0 });
  });

  test('is given up when a batch fails meanwhile', async () => {
    const slow = deferred<number>();
    const validate = (item: number) => (item === 10 ? slow.promise : item);
    const { stream: into, sent, events } = stream({}, fakeSink({ atOnce: false, validate }));
    for (const n of numbers(12)) into.write(n);
    await eventually('the batch', () => sent.length === 1);
    const reason = new Error('refused');
    sent[0]!.done.reject(reason);
    await closed(into);
    slow.resolve(10);
    await soon();
    expect(sent).toHaveLength(1);
    expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason });
  });

  test('that throws nothing at all is a failure all the same', async () => {
    const nothing = deferred<number>();
    nothing.reject(undefined as never);
    const validate = (item: number) => (item === 3 ? nothing.promise : item);
    const { stream: into, events } = stream({}, fakeSink({ validate }));
    for (const n of numbers(5)) into.write(n);
    into.end();
    await closed(into);
    expect(events).toMatchObject({
      finish: 0,
      close: 1,
      error: 1,
      reason: { message: 'the item was refused' },
    });
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
