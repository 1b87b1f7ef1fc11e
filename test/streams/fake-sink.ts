import { setImmediate as tick } from 'node:timers/promises';
import { type Deferred, deferred } from '../../src/deferred.js';
import { PayloadInvalidError } from '../../src/errors/index.js';
import { type BatchOptions, ProducerStream } from '../../streams/producer-stream.js';
import type { Sink } from '../../streams/sink.js';
import { counted } from '../ingest/support.js';

export interface Sent {
  items: number[];
  done: Deferred<void>;
}

interface FakeOptions {
  atOnce?: boolean;
  concurrency?: number;
  /** Of each item. */
  bytes?: number;
  opened?: Promise<void>;
  validate?: NonNullable<Sink<number>['validate']>;
}

/** A sink whose batches are committed when the test says so, or at once. */
export function fakeSink({
  atOnce = true,
  concurrency = 2,
  bytes = 10,
  opened = Promise.resolve(),
  validate,
}: FakeOptions = {}) {
  const sent: Sent[] = [];
  let committed = 0;
  let free = concurrency;
  const calls = { open: 0, close: 0 };
  const sink: Sink<number> = {
    ...(validate && { validate }),
    open: () => {
      calls.open++;
      return opened.then(() => ({ position: '', index: 0 }));
    },
    place: async () => {
      while (free === 0) await tick();
      free--;
    },
    batch: () => {
      const items: number[] = [];
      return {
        get count() {
          return items.length;
        },
        get bytes() {
          return items.length * bytes;
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
          await batch.done.promise.finally(() => free++);
          committed += items.length;
          return {
            ...{
              seq,
              rows: items.length,
              duplicates: 0,
              rejected: 0,
              bytes: items.length * bytes,
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

export const OPTIONS: BatchOptions = {
  batchSize: 10,
  batchBytes: 1_000_000,
  lingerMs: 60_000,
};

export function stream(options: Partial<BatchOptions> = {}, fake = fakeSink(), signal?: AbortSignal) {
  const made = new ProducerStream<number>(fake.sink, { ...OPTIONS, ...options }, signal);
  return { stream: made, events: counted(made), ...fake };
}

/** When everything that is ready has had its turn. */
export const soon = async () => {
  for (let i = 0; i < 20; i++) await tick();
};
