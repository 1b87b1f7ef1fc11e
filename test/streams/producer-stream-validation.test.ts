import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setImmediate as tick } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { PayloadInvalidError } from '../../src/errors/index.js';
import { closed, numbers } from '../ingest/support.js';
import { eventually } from '../support/eventually.js';
import { fakeSink, soon, stream } from './fake-sink.js';

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
      reason: { code: 'INGEST_FAILED', progress: { committed: 0, position: '0' } },
    });
  });
});
