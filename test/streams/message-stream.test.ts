import { once } from 'node:events';
import { type Readable, Writable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { describe, expect, test } from 'vitest';
import { deferred, orAbort } from '../../src/deferred.js';
import type { Room } from '../../streams/claim-loop.js';
import { type MessageSource, MessageStream } from '../../streams/message-stream.js';
import { eventually, within } from '../support/eventually.js';

/** A queue in memory that keeps books on every message. */
class Queue implements MessageSource<number> {
  due: number[] = [];
  readonly leased = new Set<number>();
  readonly givenBack: number[] = [];
  readonly limits: number[] = [];
  readonly empties: number[] = [];
  closed = 0;
  /** Set to hold claims until it is called. */
  answer: (() => void) | undefined;
  #wake: () => void = () => undefined;

  constructor(count = 0) {
    this.due = Array.from({ length: count }, (_, n) => n);
  }

  add(...messages: number[]): void {
    this.due.push(...messages);
    this.#wake();
  }

  async claim({ limit }: Room): Promise<number[]> {
    expect(limit).toBeGreaterThan(0);
    this.limits.push(limit);
    if (this.answer) await new Promise<void>((resolve) => (this.answer = resolve));
    await Promise.resolve();
    const messages = this.due.splice(0, limit);
    for (const message of messages) this.leased.add(message);
    return messages;
  }

  async wait(empty: number, signal: AbortSignal): Promise<void> {
    this.empties.push(empty);
    signal.throwIfAborted();
    if (this.due.length > 0) return;
    const woken = deferred();
    this.#wake = () => woken.resolve();
    await orAbort(woken.promise, signal);
  }

  giveBack(messages: number[]): Promise<void> {
    for (const message of messages) {
      expect(this.leased.delete(message)).toBe(true);
      this.givenBack.push(message);
    }
    return Promise.resolve();
  }

  close(): void {
    this.closed++;
  }
}

function countTo(count: number): number[] {
  return Array.from({ length: count }, (_, n) => n);
}

/** Ways to read a stream: each hands `take` every message, one after the other, until it answers false. */
const readers: Record<
  string,
  (stream: MessageStream<number>, take: (n: number) => boolean) => Promise<void>
> = {
  'for await': async (stream, take) => {
    for await (const message of stream) if (!take(message)) break;
  },
  data: async (stream, take) => {
    stream.on('data', (message: number) => {
      if (!take(message)) stream.destroy();
    });
    await once(stream, 'close');
  },
  'paused and resumed data': async (stream, take) => {
    stream.on('data', (message: number) => {
      if (!take(message)) stream.destroy();
      else if (message % 3 === 0) {
        stream.pause();
        setImmediate(() => stream.resume());
      }
    });
    await once(stream, 'close');
  },
  'readable and read()': async (stream, take) => {
    stream.on('readable', () => {
      for (let message; (message = stream.read()) !== null;) if (!take(message)) stream.destroy();
    });
    await once(stream, 'close');
  },
  'one read() at a time': async (stream, take) => {
    for (let more = true; more;) {
      const message = stream.read();
      if (message === null) await new Promise((resolve) => setImmediate(resolve));
      else more = take(message);
    }
    stream.destroy();
    await once(stream, 'close');
  },
  'pipe to a slow Writable': async (stream, take) => {
    const sink = new Writable({
      objectMode: true,
      highWaterMark: 1,
      write: (message: number, _encoding, callback) => {
        if (!take(message)) stream.destroy();
        setImmediate(callback);
      },
    });
    await pipeline(stream, sink).catch(() => undefined);
    if (!stream.closed) await once(stream, 'close');
  },
};

describe.each(Object.entries(readers))('read by %s', (name, read) => {
  // A Writable has a buffer of its own, in which messages wait that were handed out to it.
  const mayHold = name.startsWith('pipe') ? 2 : 0;

  test.each([1, 2, 3, 10, 100])('every message comes once and in order, prefetch %i', async (prefetch) => {
    const queue = new Queue(250);
    const stream = new MessageStream<number>(queue, { prefetch: () => prefetch });
    const got: number[] = [];
    const reading = read(stream, (message) => {
      got.push(message);
      expect(queue.leased.size - got.length).toBeLessThanOrEqual(prefetch + mayHold);
      return got.length < 250;
    });
    await within(5_000, 'reading', reading);
    expect(got).toEqual(countTo(250));
    expect(queue.closed).toBe(1);
  });

  test.each([1, 7, 100])(
    'what is not read goes back, and what is read does not, prefetch %i',
    async (prefetch) => {
      const queue = new Queue(1_000);
      const stream = new MessageStream<number>(queue, { prefetch: () => prefetch });
      const got: number[] = [];
      await within(
        5_000,
        'reading',
        read(stream, (message) => got.push(message) < 17),
      );
      const handedOut = [...queue.leased].sort((a, b) => a - b);
      expect(handedOut.slice(0, 17)).toEqual(got.slice(0, 17));
      expect(handedOut.length).toBeLessThanOrEqual(17 + mayHold);
      const back = [...queue.givenBack].sort((a, b) => a - b);
      expect([...handedOut, ...back, ...queue.due]).toEqual(countTo(1_000));
      expect(queue.closed).toBe(1);
    },
  );

  test('messages that come one by one are read one by one', async () => {
    const queue = new Queue();
    const stream = new MessageStream<number>(queue, { prefetch: () => 10 });
    const got: number[] = [];
    const reading = read(stream, (message) => got.push(message) < 20);
    for (let n = 0; n < 20; n++) {
      await eventually(
        'the stream waits',
        () => queue.empties.length > 0 && queue.due.length === 0 && got.length === n,
      );
      queue.add(n);
    }
    await within(5_000, 'reading', reading);
    expect(got).toEqual(countTo(20));
  });
});

test('nothing is claimed before somebody reads', async () => {
  const queue = new Queue(10);
  const stream = new MessageStream<number>(queue, { prefetch: () => 5 });
  await new Promise((resolve) => setImmediate(resolve));
  expect(queue.limits).toEqual([]);
  stream.destroy();
  await once(stream, 'close');
  expect(queue.closed).toBe(1);
});

test('a slow reader makes it claim by halves of the prefetch, not one by one', async () => {
  const queue = new Queue(1_000);
  let read = 0;
  for await (const message of new MessageStream<number>(queue, { prefetch: () => 100 })) {
    read++;
    if (message === 499) break;
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(read).toBe(500);
  expect(queue.limits.length).toBeLessThanOrEqual(11);
});

test('empty claims in a row are counted, and a message ends the count', async () => {
  const queue = new Queue();
  const stream = new MessageStream<number>(queue, { prefetch: () => 2 });
  const reading = once(stream.resume(), 'data');
  await eventually('one empty claim', () => queue.empties.length === 1);
  queue.add();
  await eventually('two empty claims', () => queue.empties.length === 2);
  queue.add(1);
  await reading;
  await eventually('a short claim', () => queue.empties.length === 3);
  expect(queue.empties).toEqual([1, 2, 0]);
  stream.destroy();
  await once(stream, 'close');
});

test('leaving a for await waits until everything is back', async () => {
  const queue = new Queue(50);
  let back = false;
  queue.giveBack = async () => {
    await new Promise((resolve) => setImmediate(resolve));
    back = true;
  };
  for await (const message of new MessageStream<number>(queue, { prefetch: () => 10 })) {
    expect(message).toBe(0);
    break;
  }
  expect(back).toBe(true);
});

test('what was given back on destroy can no longer be read', async () => {
  const queue = new Queue(5);
  const stream = new MessageStream<number>(queue, { prefetch: () => 5 });
  const inHand = once(stream, 'readable');
  await inHand;
  expect(stream.readableLength).toBe(1);
  stream.destroy();
  expect(stream.read()).toBeNull();
  await once(stream, 'close');
  expect(queue.givenBack).toEqual([0, 1, 2, 3, 4]);
});

test('destroying it from elsewhere ends a for await without an error', async () => {
  const queue = new Queue(1);
  const stream = new MessageStream<number>(queue, { prefetch: () => 10 });
  const reading = (async () => {
    const got: number[] = [];
    for await (const message of stream) got.push(message);
    return got;
  })();
  await eventually('a wait', () => queue.empties.length === 1);
  stream.destroy();
  expect(await within(1_000, 'the loop', reading)).toEqual([0]);
  expect(queue.closed).toBe(1);
});

describe('an abort', () => {
  test('before the start ends the stream without a claim', async () => {
    const queue = new Queue(5);
    const stream = new MessageStream<number>(queue, {
      prefetch: () => 5,
      signal: AbortSignal.abort(new Error('never mind')),
    });
    await expect(finished(stream as Readable)).rejects.toMatchObject(aborted('never mind'));
    expect(queue.limits).toEqual([]);
    expect(queue.closed).toBe(1);
  });

  test('during a claim gives back what the claim brings', async () => {
    const queue = new Queue(5);
    queue.answer = () => undefined;
    const controller = new AbortController();
    const stream = new MessageStream<number>(queue, { prefetch: () => 5, signal: controller.signal });
    stream.on('readable', () => undefined);
    await eventually('a claim', () => queue.limits.length === 1);
    controller.abort(new Error('enough'));
    const over = expect(finished(stream as Readable)).rejects.toMatchObject(aborted('enough'));
    await new Promise((resolve) => setImmediate(resolve));
    queue.answer();
    await over;
    expect(queue.givenBack).toEqual([0, 1, 2, 3, 4]);
    expect(queue.leased.size).toBe(0);
  });

  test('during a wait ends the wait', async () => {
    const queue = new Queue();
    const controller = new AbortController();
    const stream = new MessageStream<number>(queue, { prefetch: () => 5, signal: controller.signal });
    const reading = (async () => {
      for await (const message of stream) expect(message).toBeUndefined();
    })();
    await eventually('a wait', () => queue.empties.length === 1);
    controller.abort(new Error('enough'));
    await expect(within(1_000, 'the reader', reading)).rejects.toMatchObject(aborted('enough'));
    expect(queue.closed).toBe(1);
  });

  test('after the end does nothing', async () => {
    const queue = new Queue(1);
    const controller = new AbortController();
    const stream = new MessageStream<number>(queue, { prefetch: () => 5, signal: controller.signal });
    for await (const message of stream) {
      expect(message).toBe(0);
      break;
    }
    controller.abort();
    await new Promise((resolve) => setImmediate(resolve));
    expect(stream.errored).toBeNull();
    expect(queue.closed).toBe(1);
  });
});

test('destroying twice closes once', async () => {
  const queue = new Queue(20);
  const stream = new MessageStream<number>(queue, { prefetch: () => 10 });
  stream.on('readable', () => undefined);
  await eventually('a full house', () => queue.leased.size === 10);
  let closes = 0;
  stream.on('close', () => closes++);
  stream.destroy();
  stream.destroy(new Error('too late'));
  await once(stream, 'close');
  await new Promise((resolve) => setImmediate(resolve));
  expect([closes, queue.closed, queue.givenBack.length]).toEqual([1, 1, 10]);
});

test('a claim that fails for good ends the stream with its error', async () => {
  const queue = new Queue();
  queue.claim = () => Promise.reject(new Error('fenced'));
  const stream = new MessageStream<number>(queue, { prefetch: () => 10 });
  await expect(once(stream.resume(), 'data')).rejects.toThrow('fenced');
  if (!stream.closed) await once(stream, 'close');
  expect(queue.closed).toBe(1);
});

/** The error of a stream that a signal ended. */
function aborted(reason: string) {
  return { name: 'AbortError', cause: { message: reason } };
}
