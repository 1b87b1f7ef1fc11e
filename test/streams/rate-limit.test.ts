// Long because every way out of the stream has its own test, counted by its events; the helpers are last.
import { execFile } from 'node:child_process';
import { getEventListeners, once } from 'node:events';
import { type Duplex, PassThrough, Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { InvalidOptionError } from '../../src/errors/index.js';
import { rateLimit } from '../../streams/rate-limit.js';

const HOUR = 3_600_000;
const ONE_AN_HOUR = 1 / 3_600;
const realImmediate = setImmediate;

afterEach(() => {
  vi.useRealTimers();
});

describe('what goes in comes out', () => {
  test('every item, in order, also those that are falsy', async () => {
    const items = [0, '', false, NaN, undefined, ...Array.from({ length: 50_000 }, (_, n) => ({ n }))];
    const seen: unknown[] = [];
    await pipeline(Readable.from(items), rateLimit({ perSecond: 1e6 }), sink(seen));
    expect(seen).toEqual(items);
  });

  test('with an async iterator as its reader too', async () => {
    const seen: unknown[] = [];
    for await (const n of Readable.from(numbers(5_000)).pipe(rateLimit({ perSecond: 1e6 }))) seen.push(n);
    expect(seen).toEqual([...numbers(5_000)]);
  });
});

describe('the rate', () => {
  test('is never exceeded since the start, nor in any window beyond what a late timer left to make up for', async () => {
    const perSecond = 4_000;
    const burst = 10;
    const seenAtMs: number[] = [];
    const startMs = performance.now();
    const stamp = new Writable({
      objectMode: true,
      write(_item, _encoding, done) {
        seenAtMs.push(performance.now());
        done();
      },
    });
    await pipeline(Readable.from(numbers(2_000)), rateLimit({ perSecond, burst }), stamp);
    const longestGapMs = Math.max(...seenAtMs.map((ms, i) => ms - (seenAtMs[i - 1] ?? startMs)));
    const allowed = (ms: number) => burst + ((ms + 0.01) * perSecond) / 1_000;
    let worst = 0;
    for (const [i, fromMs] of seenAtMs.entries()) {
      expect(i + 1).toBeLessThanOrEqual(allowed(fromMs - startMs));
      for (let j = i; j < seenAtMs.length; j++)
        worst = Math.max(worst, j - i + 1 - allowed(seenAtMs[j]! - fromMs + longestGapMs + 1));
    }
    expect(worst).toBe(0);
  });

  test('is not one item per timer: 20,000 items at 200,000/s with burst 1 need no 20 seconds', async () => {
    await pipeline(Readable.from(numbers(20_000)), rateLimit({ perSecond: 200_000 }), sink(), {
      signal: AbortSignal.timeout(4_000),
    });
  });

  test('may be a fraction: 0.5 is one item every two seconds', async () => {
    const { stream, seen } = limited({ perSecond: 0.5 });
    for (const n of numbers(3)) stream.write(n);
    await settle();
    expect(seen).toEqual([0]);
    await advance(1_999);
    expect(seen).toEqual([0]);
    await advance(1);
    expect(seen).toEqual([0, 1]);
    await advance(2_000);
    expect(seen).toEqual([0, 1, 2]);
  });

  test('may be so low that a timer could not wait that long at once', async () => {
    const { stream, seen } = limited({ perSecond: 1 / (1_000 * 3_600) });
    for (const n of numbers(2)) stream.write(n);
    await advance(999 * HOUR);
    expect(seen).toEqual([0]);
    await advance(HOUR);
    expect(seen).toEqual([0, 1]);
  });
});

describe('a pause', () => {
  test('of the source earns burst items and not one more', async () => {
    const { stream, seen } = limited({ perSecond: 100, burst: 3 });
    stream.write('first');
    await settle();
    await advance(HOUR);
    for (const n of numbers(10)) stream.write(n);
    await settle();
    expect(seen).toEqual(['first', 0, 1, 2]);
    await advance(9);
    expect(seen).toHaveLength(4);
    await advance(1);
    expect(seen).toHaveLength(5);
    await advance(50);
    expect(seen).toHaveLength(10);
  });

  test('shorter than a timer can tell, between two waits, costs nothing', async () => {
    const { stream, seen } = limited({ perSecond: 10_000 });
    for (const n of numbers(2)) stream.write(n);
    await advance(1);
    expect(seen).toHaveLength(2);
    await advance(1);
    for (const n of numbers(50)) stream.write(n);
    await settle();
    expect(seen).toHaveLength(1 + 2 * 10);
  });

  test('of the reader earns burst items too; one more lay ready for it', async () => {
    const { stream, seen } = limited({ perSecond: 100, burst: 3 });
    stream.pause();
    for (const n of numbers(10)) stream.write(n);
    await advance(HOUR);
    stream.resume();
    await settle();
    expect(seen).toEqual([0, 1, 2, 3]);
    await advance(10);
    expect(seen).toHaveLength(5);
  });
});

describe('back-pressure', () => {
  test('a stuck writable stops the source after what the buffers hold, and none is lost', async () => {
    const source = counted(500);
    const stuck: (() => void)[] = [];
    let open = false;
    let written = 0;
    const slow = new Writable({
      objectMode: true,
      highWaterMark: 1,
      write(_item, _encoding, done) {
        written++;
        if (open) done();
        else stuck.push(done);
      },
    });
    const done = pipeline(source.readable, rateLimit({ perSecond: 1e6, burst: 1_000 }), slow);
    await vi.waitUntil(() => stuck.length === 1);
    await settle();
    expect(source.pulled()).toBeLessThanOrEqual(MOST_READ_AHEAD);
    open = true;
    stuck[0]!();
    await done;
    expect(written).toBe(500);
  });

  test('a wait holds the source back', async () => {
    const source = counted(500);
    const stream = rateLimit({ perSecond: ONE_AN_HOUR });
    source.readable.pipe(stream);
    await once(stream.resume(), 'data');
    await settle();
    expect(source.pulled()).toBeLessThanOrEqual(MOST_READ_AHEAD);
    stream.destroy();
    source.readable.destroy();
  });

  test('timers fire while a million items pass without a wait', async () => {
    let beats = 0;
    const heartbeat = setInterval(() => beats++, 5);
    let left = 1_000_000;
    const eager = new Readable({
      objectMode: true,
      read() {
        while (left > 0) if (!this.push(left--)) return;
        this.push(null);
      },
    });
    await pipeline(eager, rateLimit({ perSecond: 1e9 }), sink());
    clearInterval(heartbeat);
    expect(beats).toBeGreaterThanOrEqual(5);
  });
});

describe('every way out', () => {
  test('the end of the source', async () => {
    const stream = rateLimit({ perSecond: 1e6 });
    const events = countEvents(stream);
    await pipeline(Readable.from(numbers(100)), stream, sink());
    await settle();
    expect(events).toEqual({ finish: 1, end: 1, close: 1, error: 0 });
  });

  test('a source without items', async () => {
    const stream = rateLimit({ perSecond: 1 });
    const events = countEvents(stream);
    await pipeline(Readable.from([]), stream, sink());
    await settle();
    expect(events).toEqual({ finish: 1, end: 1, close: 1, error: 0 });
  });

  test('an error of the source', async () => {
    const stream = rateLimit({ perSecond: ONE_AN_HOUR });
    const events = countEvents(stream);
    const source = new PassThrough({ objectMode: true });
    const done = pipeline(source, stream, sink());
    source.write(1);
    source.destroy(new Error('source broke'));
    await expect(done).rejects.toThrow('source broke');
    await settle();
    expect(events).toEqual({ finish: 0, end: 0, close: 1, error: 1 });
  });

  test('an error of the writable, in the middle of a wait', async () => {
    const { stream, events } = await waiting();
    const broken = sink();
    const done = pipeline(stream, broken);
    broken.destroy(new Error('sink broke'));
    await expect(done).rejects.toThrow('sink broke');
    await settle();
    expect(events).toEqual({ finish: 0, end: 0, close: 1, error: 1 });
    expect(vi.getTimerCount()).toBe(0);
  });

  test('destroy in the middle of a wait, twice: closed at once, no timer left', async () => {
    const { stream, events } = await waiting();
    expect(vi.getTimerCount()).toBe(1);
    stream.destroy();
    stream.destroy(new Error('too late'));
    expect(vi.getTimerCount()).toBe(0);
    await settle();
    expect(events).toEqual({ finish: 0, end: 0, close: 1, error: 0 });
  });

  test('destroy with an error', async () => {
    const { stream, events } = await waiting();
    stream.destroy(new Error('enough'));
    await settle();
    expect(events).toEqual({ finish: 0, end: 0, close: 1, error: 1 });
  });

  test('destroy between two groups that pass without a wait', async () => {
    vi.useFakeTimers({ toFake: ['setImmediate', 'clearImmediate'] });
    const stream = rateLimit({ perSecond: 1e9 });
    const events = countEvents(stream);
    let seen = 0;
    stream.on('data', () => seen++);
    for (const n of numbers(5_000)) stream.write(n);
    await settle();
    expect(vi.getTimerCount()).toBe(1);
    stream.destroy();
    expect(vi.getTimerCount()).toBe(0);
    await settle();
    expect(seen).toBe(1_024);
    expect(events).toEqual({ finish: 0, end: 0, close: 1, error: 0 });
  });

  test('a signal that aborts in the middle of a wait: closed at once, no timer left', async () => {
    const controller = new AbortController();
    const { stream, events } = await waiting(controller.signal);
    const failed = once(stream, 'error');
    controller.abort('enough');
    expect(vi.getTimerCount()).toBe(0);
    await expect(failed).resolves.toMatchObject([{ name: 'AbortError', cause: 'enough' }]);
    await settle();
    expect(events).toEqual({ finish: 0, end: 0, close: 1, error: 1 });
  });

  test('a signal that has aborted before', async () => {
    const stream = rateLimit({ perSecond: 1, signal: AbortSignal.abort() });
    const events = countEvents(stream);
    await settle();
    expect(events).toEqual({ finish: 0, end: 0, close: 1, error: 1 });
    await expect(pipeline(Readable.from(numbers(3)), stream, sink())).rejects.toThrow();
  });

  test('a signal that aborts after the end changes nothing, and holds no listener', async () => {
    const controller = new AbortController();
    const stream = rateLimit({ perSecond: 1e6, signal: controller.signal });
    const events = countEvents(stream);
    await pipeline(Readable.from(numbers(10)), stream, sink());
    await settle();
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0);
    controller.abort();
    await settle();
    expect(events).toEqual({ finish: 1, end: 1, close: 1, error: 0 });
  });

  test('lets the process end', async () => {
    const script = `
      import { rateLimit } from './streams/rate-limit.ts';
      const stream = rateLimit({ perSecond: ${ONE_AN_HOUR} });
      stream.write(1);
      stream.write(2);
      stream.once('data', () => setImmediate(() => stream.destroy()));
      stream.once('close', () => console.log('closed'));`;
    const node = ['--import', 'tsx', '--input-type', 'module', '--eval', script];
    const { stdout } = await promisify(execFile)(process.execPath, node, { timeout: 15_000 });
    expect(stdout).toBe('closed\n');
  }, 20_000);
});

describe('options', () => {
  for (const [options, message] of [
    [{ perSecond: 0 }, 'rateLimit.perSecond must be a number above 0, got 0'],
    [{ perSecond: -1 }, 'rateLimit.perSecond must be a number above 0, got -1'],
    [{ perSecond: Infinity }, 'rateLimit.perSecond must be a number above 0, got Infinity'],
    [{ perSecond: NaN }, 'rateLimit.perSecond must be a number above 0, got NaN'],
    [{ perSecond: 1, burst: 0 }, 'rateLimit.burst must be a whole number of at least 1, got 0'],
    [{ perSecond: 1, burst: 1.5 }, 'rateLimit.burst must be a whole number of at least 1, got 1.5'],
  ] as const) {
    test(message, () => {
      expect(() => rateLimit(options)).toThrow(InvalidOptionError);
      expect(() => rateLimit(options)).toThrow(message);
    });
  }
});

/** Our writing side's 16, one held, our reading side's 1; the source's own buffer and one in its hand; the sink's 1. */
const MOST_READ_AHEAD = 16 + 1 + 1 + 2 + 1;

function* numbers(count: number): Generator<number> {
  for (let n = 0; n < count; n++) yield n;
}

function counted(count: number) {
  let pulled = 0;
  function* items() {
    for (const n of numbers(count)) {
      pulled++;
      yield n;
    }
  }
  return { readable: Readable.from(items()), pulled: () => pulled };
}

function sink(seen: unknown[] = []): Writable {
  return new Writable({
    objectMode: true,
    write(item, _encoding, done) {
      seen.push(item);
      done();
    },
  });
}

function countEvents(stream: Duplex) {
  const counts = { finish: 0, end: 0, close: 0, error: 0 };
  for (const name of ['finish', 'end', 'close', 'error'] as const) stream.on(name, () => counts[name]++);
  return counts;
}

/** From here on the test moves the clock. */
function limited(options: Parameters<typeof rateLimit>[0]) {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  const stream = rateLimit(options);
  const seen: unknown[] = [];
  stream.on('data', (item) => seen.push(item));
  return { stream, seen, events: countEvents(stream) };
}

/** A stream that has let one item through and holds the next for an hour. */
async function waiting(signal?: AbortSignal) {
  const { stream, events, seen } = limited({ perSecond: ONE_AN_HOUR, signal });
  stream.write(1);
  stream.write(2);
  await settle();
  expect(seen).toEqual([1]);
  return { stream, events };
}

/** Lets the callbacks and events that are due now happen, in streams some ticks deep. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((done) => realImmediate(done));
}

async function advance(ms: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
  await settle();
}
