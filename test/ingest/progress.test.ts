import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, expect, test } from 'vitest';
import {
  type IngestProgress,
  type Producer,
  QueueNotFoundError,
  SluiceError,
  type WritableOptions,
} from '../../src/index.js';
import { eventually } from '../support/eventually.js';
import { type Link, saysCommitted } from '../support/proxy.js';
import { numbered, type Scenario, scenario } from '../support/scenario.js';
import { behindProxy, closed, counted, expectNothingLeft, numbers } from './support.js';

interface Item {
  n: number;
}

const OPTIONS: WritableOptions<Item> = { batchSize: 10, lingerMs: 60_000, retryBaseMs: 1, retryMaxMs: 10 };

/** Something nobody can write to, or ask for anything. */
const proxy: unknown = new Proxy(new Error('never seen'), {
  get: () => {
    throw new Error('do not touch');
  },
  set: () => {
    throw new Error('do not touch');
  },
  defineProperty: () => {
    throw new Error('do not touch');
  },
  getPrototypeOf: () => {
    throw new Error('do not touch');
  },
});
/** Of ours, and with the progress of another ingest. */
const ours = Object.assign(new QueueNotFoundError('elsewhere'), {
  progress: { committed: 123_456, position: 'far away' },
});
const REASONS: [string, unknown][] = [
  ['an Error', new Error('the source broke')],
  ['a frozen Error', Object.freeze(new Error('frozen'))],
  ['an error of ours', ours],
  ['a frozen error of ours', Object.freeze(new QueueNotFoundError('elsewhere'))],
  ['a text', 'a text'],
  ['null', null],
  ['undefined', undefined],
  ['a symbol', Symbol('s')],
  ['a Proxy that throws', proxy],
];
function isError(reason: unknown): boolean {
  return reason !== proxy && reason instanceof Error;
}

const throwing = (reason: unknown) => (): never => {
  throw reason;
};

async function* broken(count: number, reason: unknown): AsyncGenerator<Item> {
  yield* numbered(count);
  await Promise.resolve();
  throw reason;
}

/** Gives so many items, and then calls and waits. */
async function* stalling(count: number, stalled: () => void): AsyncGenerator<Item> {
  yield* numbered(count);
  stalled();
  await new Promise(() => undefined);
}

/** What is said is what is there: an exact prefix. */
async function expectExact(test: Scenario, said: IngestProgress | undefined, atLeast = 0): Promise<void> {
  const delivered = await test.delivered();
  expect(delivered).toEqual(numbers(delivered.length));
  expect(delivered.length).toBeGreaterThanOrEqual(atLeast);
  expect(said).toEqual({ committed: delivered.length, position: String(delivered.length) });
  await expectNothingLeft(test);
}

const failureOf = (loading: Promise<unknown>): Promise<SluiceError> =>
  loading.then(
    () => expect.unreachable('it did not fail'),
    (error: unknown) => error as SluiceError,
  );

/** As `toBe`, which asks a Proxy for what it is. */
const same = (a: unknown, b: unknown) => Object.is(a, b);

/** Directly, or as the cause of one that stands for what is no error. */
function hasCause(error: Error, reason: unknown): boolean {
  if (same(error.cause, reason)) return true;
  return !same(error.cause, proxy) && error.cause instanceof SluiceError && hasCause(error.cause, reason);
}

describe('ingest() rejects with an error of ours that says how far it came', () => {
  /** Each breaks with the reason after 25 items or at the 26th. */
  const ways: Record<string, (producer: Producer, reason: unknown) => Promise<unknown>> = {
    'a generator throws': (producer, reason) => producer.ingest(broken(25, reason), OPTIONS),
    'an iterator throws': (producer, reason) => {
      let n = 0;
      const next = () => (n < 25 ? { value: { n: n++ }, done: false } : throwing(reason)());
      return producer.ingest({ [Symbol.iterator]: () => ({ next }) } as Iterable<Item>, OPTIONS);
    },
    'a source cannot be opened': (producer, reason) => producer.ingest(throwing(reason), OPTIONS),
    'a promise in an iterable rejects': (producer, reason) => {
      const items = [...numbered(25), rejection(reason)];
      return producer.ingest(items as Item[], OPTIONS);
    },
    'delaySeconds throws': (producer, reason) =>
      producer.ingest(numbered(100), {
        ...OPTIONS,
        delaySeconds: ({ n }) => (n === 25 ? throwing(reason)() : 0),
      }),
    'dedupeKey throws': (producer, reason) =>
      producer.ingest(numbered(100), {
        ...OPTIONS,
        dedupeKey: ({ n }) => (n === 25 ? throwing(reason)() : undefined),
      }),
    'onReject throws': (producer, reason) =>
      producer.ingest([...numbered(25), { n: 25, big: 1n }], { ...OPTIONS, onReject: throwing(reason) }),
  };
  test.each(Object.keys(ways))('%s', async (way) => {
    const test = await scenario();
    const producer = await test.producer();
    // Reads the source no further, while the batches before the item of a callback are still committed.
    const atLeast = /^(?:delaySeconds|dedupeKey|onReject)/.test(way) ? 20 : 0;
    for (const [what, reason] of REASONS) {
      const error = await failureOf(ways[way]!(producer, reason));
      expect(error, what).toBeInstanceOf(SluiceError);
      expect(same(error, reason), what).toBe(false);
      // What a source throws is always the cause; an error of ours that a callback throws is copied.
      if (error.code === 'INGEST_FAILED') expect(hasCause(error, reason), what).toBe(true);
      else expect([atLeast, error.code], what).toEqual([20, 'QUEUE_NOT_FOUND']);
      await expectExact(test, error.progress, atLeast);
      expect(ours.progress.committed).toBe(123_456);
      await test.pool.query(`delete from ${test.schema}.pgqrs_messages`);
    }
  });

  test('an abort, whatever its reason', async () => {
    const test = await scenario();
    const producer = await test.producer();
    for (const [what, reason] of REASONS) {
      const abort = new AbortController();
      const source = stalling(25, () => setImmediate(() => abort.abort(reason)));
      const error = await failureOf(producer.ingest(source, { ...OPTIONS, signal: abort.signal }));
      expect(error, what).toBeInstanceOf(SluiceError);
      expect([error.name, error.code], what).toEqual(['AbortError', 'ABORT_ERR']);
      if (reason !== undefined) expect(hasCause(error, reason), what).toBe(true);
      await expectExact(test, error.progress);
      await test.pool.query(`delete from ${test.schema}.pgqrs_messages`);
    }
  });

  test('a source that is a Readable fails', async () => {
    const test = await scenario();
    const reason = new Error('the source broke');
    const error = await failureOf((await test.producer()).ingest(Readable.from(broken(25, reason)), OPTIONS));
    expect(error).toMatchObject({ code: 'INGEST_FAILED', cause: reason });
    expect(error.message).toContain('the source broke');
    await expectExact(test, error.progress);
  });

  test('a bare null, by its index', async () => {
    const test = await scenario();
    const error = await failureOf((await test.producer()).ingest([...numbered(25), null as never], OPTIONS));
    expect(error).toMatchObject({ code: 'PAYLOAD_INVALID', index: 25 });
    await expectExact(test, error.progress);
  });

  test('what a source function opens is no source', async () => {
    const test = await scenario();
    const error = await failureOf((await test.producer()).ingest(() => 7 as never, OPTIONS));
    expect(error).toMatchObject({ code: 'INVALID_OPTION', field: 'source' });
    await expectExact(test, error.progress);
  });
});

describe('a stream says how far it came, and what is not its own it passes on as it is', () => {
  test('its source fails', async () => {
    const test = await scenario();
    const producer = await test.producer();
    // Node's own streams ask an error for its stack.
    for (const [what, reason] of REASONS.filter(([, given]) => isError(given))) {
      const stream = producer.writable(OPTIONS);
      const before = JSON.stringify(reason);
      expect(await failureOf(pipeline(Readable.from(broken(25, reason)), stream)), what).toBe(reason);
      await closed(stream);
      expect(JSON.stringify(reason)).toBe(before);
      await expectExact(test, stream.progress);
      await test.pool.query(`delete from ${test.schema}.pgqrs_messages`);
    }
  });

  test('destroy()', async () => {
    const test = await scenario();
    const producer = await test.producer();
    for (const [what, reason] of REASONS) {
      const stream = producer.writable(OPTIONS);
      const events = counted(stream);
      for (const item of numbered(30)) stream.write(item);
      await eventually('the batches', () => stream.stats.batches === 3);
      stream.destroy(reason as Error);
      await closed(stream);
      const given = reason !== null && reason !== undefined;
      expect(events, what).toMatchObject({ finish: 0, close: 1, error: given ? 1 : 0 });
      if (isError(reason)) expect(events.reason).toBe(reason);
      else if (given) expect(hasCause(events.reason!, reason), what).toBe(true);
      expect(ours.progress.committed).toBe(123_456);
      await expectExact(test, stream.progress, 30);
      await test.pool.query(`delete from ${test.schema}.pgqrs_messages`);
    }
  });

  test('its pipeline is aborted', async () => {
    const test = await scenario();
    const abort = new AbortController();
    const stream = (await test.producer()).writable(OPTIONS);
    const source = Readable.from(stalling(25, () => setImmediate(() => abort.abort())));
    const loaded = pipeline(source, stream, { signal: abort.signal });
    loaded.catch(() => undefined);
    await closed(stream);
    await expectExact(test, stream.progress);
  });

  test('a listener of its batches throws', async () => {
    const test = await scenario();
    const stream = (await test.producer()).writable(OPTIONS);
    const events = counted(stream);
    stream.on('batch', throwing(null));
    for (const item of numbered(10)) stream.write(item);
    await closed(stream);
    expect(events).toMatchObject({ error: 1, reason: { code: 'INGEST_FAILED', cause: null } });
    expect(events.reason!.progress).toBe(stream.progress);
    await expectExact(test, stream.progress, 10);
  });

  test('it ends well', async () => {
    const test = await scenario();
    const stream = (await test.producer()).writable(OPTIONS);
    await pipeline(Readable.from(numbered(25)), stream);
    await expectExact(test, stream.progress, 25);
  });
});

/** Two streams of one producer, with 20 and 40 rows committed, and what both end with. */
async function twoStreams(test: Scenario, end: (producer: Producer) => unknown) {
  const producer = await test.producer();
  const streams = [20, 40].map((count) => {
    const stream = producer.writable(OPTIONS);
    for (const item of numbered(count)) stream.write(item);
    return { stream, count, events: counted(stream) };
  });
  await eventually('the batches', () =>
    streams.every(({ stream, count }) => stream.stats.committed === count),
  );
  await end(producer);
  for (const { stream } of streams) stream.end({ n: 0 });
  for (const { stream } of streams) await closed(stream);
  return streams;
}

test.each<[string, string, (test: Scenario, producer: Producer) => unknown]>([
  [
    'another process takes their worker over',
    'WORKER_FENCED',
    ({ pool, schema }) => pool.query(`update ${schema}.pgqrs_workers set started_at = now()`),
  ],
  ['their producer is closed', 'CLOSED', (_test, producer) => producer.close()],
  [
    'the producer is stopped elsewhere while they wait for it to be resumed',
    'CLOSED',
    async ({ sluice }, producer) => {
      await producer.suspend();
      await sluice.admin.worker(producer.workerId).shutdown();
      await producer.heartbeat().catch(() => undefined);
    },
  ],
  [
    'the ledger is emptied',
    'STREAM_NOT_FOUND',
    ({ pool, schema }) => pool.query(`delete from ${schema}.sluice_streams`),
  ],
])('streams that end together say each how far it came itself: %s', async (_how, code, end) => {
  const test = await scenario();
  const streams = await twoStreams(test, (producer) => end(test, producer));
  const said = streams.map(({ events }) => events.reason);
  expect(said).toMatchObject([{ code }, { code }]);
  expect(said[0]).not.toBe(said[1]);
  expect(said.map((error) => error!.progress)).toEqual([
    { committed: 20, position: '20' },
    { committed: 40, position: '40' },
  ]);
});

test('streams that are aborted with one signal and one reason say each how far it came itself', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const abort = new AbortController();
  const loads = [20, 40].map((count) =>
    failureOf(
      producer.ingest(
        waitsFor(count, () => abort.signal),
        { ...OPTIONS, signal: abort.signal },
      ),
    ),
  );
  await eventually('all rows', async () => (await test.count()) === 60);
  abort.abort(ours);
  expect((await Promise.all(loads)).map(({ progress }) => progress?.committed)).toEqual([20, 40]);
  expect(ours.progress.committed).toBe(123_456);
});

async function* waitsFor(count: number, signal: () => AbortSignal): AsyncGenerator<Item> {
  yield* numbered(count);
  await new Promise((resolve) => signal().addEventListener('abort', resolve));
}

test('a COMMIT that the server refuses leaves no doubt, and the ledger is not asked', async () => {
  const behind = await behindProxy();
  const { pool, schema: s, proxy } = behind;
  await pool.query(`
    create function ${s}.refuse() returns trigger language plpgsql as $$
    begin raise exception 'not on Sundays' using errcode = '42501'; end $$;
    create constraint trigger refuse after insert on ${s}.pgqrs_messages deferrable initially deferred
      for each row when ((new.payload->>'n')::int = 25) execute function ${s}.refuse()`);
  let asked = 0;
  proxy.judge = ({ data }) => {
    if (!data.includes('sluice:fence_stream')) return 'pass';
    asked++;
    return 'hole';
  };
  const error = await failureOf(behind.through.ingest(numbered(100), OPTIONS));
  expect(error).toMatchObject({ code: 'PERMISSION_DENIED' });
  expect(asked).toBe(0);
  await expectExact(behind, error.progress, 20);
});

test('a ledger row that is lost while a COMMIT is unanswered leaves the last batch in doubt', async () => {
  const behind = await behindProxy();
  const { pool, schema, proxy } = behind;
  let held: Link | undefined;
  let commits = 0;
  proxy.judge = (bytes) => {
    if (held || !saysCommitted(bytes) || ++commits !== 3) return 'pass';
    held = bytes.link;
    return 'drop';
  };
  const loading = failureOf(behind.through.ingest(numbered(100), { ...OPTIONS, concurrency: 1 }));
  await eventually('the third batch to be in', async () => held && (await behind.count()) === 30);
  await pool.query(`delete from ${schema}.sluice_streams`);
  held!.cut();
  const error = await loading;
  expect(error).toMatchObject({ code: 'STREAM_NOT_FOUND' });
  expect(error.progress).toEqual({ committed: 20, position: '20', inDoubt: true });
});

/** A promise that is rejected with that, as it is, and that nobody has to handle. */
function rejection(reason: unknown): Promise<never> {
  // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- that is what is tested
  const rejected = Promise.reject(reason);
  rejected.catch(() => undefined);
  return rejected;
}
