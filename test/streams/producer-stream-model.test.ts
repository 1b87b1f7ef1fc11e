import { setImmediate as settled } from 'node:timers/promises';
import fc, { type Scheduler } from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type IngestProgress, PayloadInvalidError, SluiceError } from '../../src/errors/index.js';
import { KeyPurge } from '../../src/ingest/key-purge.js';
import { Rejects } from '../../src/ingest/rejects.js';
import { StreamSink } from '../../src/ingest/stream-sink.js';
import { PayloadCheck } from '../../src/validation.js';
import { ProducerStream } from '../../streams/producer-stream.js';
import { counted } from '../ingest/support.js';
import { type Fate, FakeServer } from '../support/fake-server.js';
import { seedOfRun } from '../support/seeded.js';
import { FULL } from '../support/total-queue.js';

// Time and chance are the model's: nothing happens by itself.
vi.mock(import('../../src/backoff.js'), () => ({
  backoffMs: (attempt, { baseMs, maxMs }) => Math.min(maxMs, baseMs * 2 ** (attempt - 1)),
  sleep: (ms, signal) =>
    new Promise<void>((resolve, reject) => {
      signal?.throwIfAborted();
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      }, ms);
      const onAbort = () => {
        clearTimeout(timer);
        reject(signal?.reason as Error);
      };
      signal?.addEventListener('abort', onAbort, { once: true });
    }),
}));

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

const RUNS = Number(process.env.SLUICE_MODEL_RUNS ?? (FULL ? 10_000 : 500));
/** More than any schedule needs that ends. */
const MAX_STEPS = 20_000;

/** Or most streams would end while they open: it is not tried again after its deadline. */
const OPENING_STEPS = 12;

/** An item: one that can be stored or not, told at once or after a while by the validator, or by its JSON. */
type Kind = 'good' | 'slow' | 'bad' | 'slowBad' | 'badJson';
interface Item {
  n: number;
  kind: Kind;
  text?: string;
}

type Command = Kind | 'wait' | 'end' | 'destroy' | 'fail' | 'abort';

const commands = fc.array(
  fc.oneof(
    { weight: 240, arbitrary: fc.constant<Command>('good') },
    { weight: 30, arbitrary: fc.constantFrom<Command>('slow', 'wait') },
    { weight: 3, arbitrary: fc.constantFrom<Command>('bad', 'slowBad', 'badJson') },
    { weight: 1, arbitrary: fc.constantFrom<Command>('destroy', 'fail', 'abort', 'end') },
  ),
  { maxLength: 40, size: 'max' },
);
/** Of each exchange with the server, in turn; later ones go well. */
const fates = fc.array(
  fc.oneof(
    { weight: 800, arbitrary: fc.constant<Fate>('ok') },
    {
      weight: 150,
      arbitrary: fc.constantFrom<Fate>(
        'refused',
        'lost',
        'unanswered',
        'late',
        'silent',
        'silentAfter',
        'stuck',
      ),
    },
    { weight: 1, arbitrary: fc.constant<Fate>('forbidden') },
  ),
  { maxLength: 80, size: 'max' },
);
/** What is special about each step: 0: the next timer goes off, 1: two things happen at once. */
const clock = fc.array(fc.nat({ max: 24 }), { maxLength: 200, size: 'max' });
const settings = fc.record({
  batchSize: fc.integer({ min: 1, max: 4 }),
  lingerMs: fc.constantFrom(1, 60_000),
  concurrency: fc.integer({ min: 1, max: 4 }),
  clients: fc.integer({ min: 1, max: 4 }),
  retries: fc.constantFrom(0, 3, 100, 100),
  turnMs: fc.constantFrom(5, 5_000),
  validates: fc.boolean(),
  onReject: fc.boolean(),
});

interface Plan {
  commands: Command[];
  fates: Fate[];
  clock: number[];
  settings: typeof settings extends fc.Arbitrary<infer S> ? S : never;
  scheduler: Scheduler;
}

test(
  `whatever happens in whatever order, a stream commits an exact prefix and ends once (${RUNS} schedules)`,
  async () => {
    // SLUICE_SEED=seed, or seed:path as it is printed on failure.
    const path = /:(.+)/.exec(process.env.SLUICE_SEED ?? '')?.[1];
    const counts = { finished: 0, failed: 0, inDoubt: 0, resolved: 0, retries: 0, regained: 0 };
    const plans = fc.record({ commands, fates, clock, settings, scheduler: fc.scheduler() });
    await fc.assert(
      fc.asyncProperty(plans, async (plan) => {
        const run = await play(plan);
        check(run);
        const { events, stream } = run;
        if (events.finish > 0) counts.finished++;
        if (events.error > 0) counts.failed++;
        if (run.progress?.inDoubt) counts.inDoubt++;
        counts.resolved += stream.stats.resolved;
        counts.retries += stream.stats.retries;
        // What no 'batch' event told, and the last question to the ledger did.
        if (run.server.committed.length > run.told.rows) counts.regained++;
      }),
      {
        seed: seedOfRun(),
        numRuns: RUNS,
        ...(path !== undefined && { path }),
        endOnFailure: path !== undefined,
      },
    );
    console.info(`${RUNS} schedules: ${JSON.stringify(counts)}`);
    // Or the model would prove nothing.
    if (RUNS >= 100 && path === undefined) {
      for (const way of ['finished', 'failed', 'resolved', 'retries'] as const)
        expect(counts[way], way).toBeGreaterThan(0);
    }
  },
  60_000 + RUNS * 100,
);

type Run = Awaited<ReturnType<typeof play>>;

/** Plays a plan to its end. */
async function play({ commands: script, fates: planned, clock: ticks, settings: options, scheduler }: Plan) {
  const left = [...planned];
  const server = new FakeServer({
    clients: options.clients,
    fate: () => left.shift() ?? 'ok',
    step: (what) => scheduler.schedule(Promise.resolve(), what),
  });
  const abort = new AbortController();
  const rejected: number[] = [];
  const sink = sinkOf(server, options, scheduler, rejected);
  const close = sink.close.bind(sink);
  let progress: IngestProgress | undefined;
  sink.close = async () => (progress = await close());
  const stream = new ProducerStream<Item>(sink, { ...options, batchBytes: 1_000_000 }, abort.signal);
  const events = counted(stream);
  const told = {
    rows: 0,
    batches: 0,
    retries: 0,
    committedAtClose: -1,
    inUseAtClose: -1,
    endCallbacks: 0,
    endMayBeSilent: false,
    destroyed: false,
  };
  stream.on('batch', ({ rows }) => {
    told.rows += rows;
    told.batches++;
  });
  stream.on('retry', () => told.retries++);
  stream.on('close', () => {
    told.committedAtClose = server.committed.length;
    told.inUseAtClose = server.inUse;
  });

  const written: { item: Item; callbacks: number; error: Error | null | undefined }[] = [];
  let ended = false;
  const perform = async (command: Command) => {
    await scheduler.schedule(Promise.resolve(), `command: ${command}`);
    if (command === 'destroy') {
      told.destroyed = true;
      stream.destroy();
    } else if (command === 'fail') stream.destroy(new Error('enough'));
    else if (command === 'abort') abort.abort();
    else if (command === 'wait') {
      while (written.some(({ callbacks }) => callbacks === 0))
        await scheduler.schedule(Promise.resolve(), 'a callback');
    } else if (command !== 'end' && !ended) {
      const item: Item = { n: written.length, kind: command, ...(command === 'badJson' && { text: '\0' }) };
      const write: (typeof written)[number] = { item, callbacks: 0, error: undefined };
      written.push(write);
      stream.write(item, (error) => {
        write.callbacks++;
        write.error = error;
      });
    } else if (!ended) {
      ended = true;
      // Node calls it never when the stream had been destroyed without an error before.
      told.endMayBeSilent = stream.destroyed;
      stream.end(() => told.endCallbacks++);
    }
  };
  const performed = (async () => {
    for (const command of [...script, 'end' as const]) await perform(command);
  })();

  let waits = 0;
  for (let steps = 0; ; steps++) {
    if (steps === MAX_STEPS) throw new Error('it does not come to an end');
    await settled();
    const goesOff = vi.getTimerCount() > 0 && ticks[steps - OPENING_STEPS] === 0;
    // While somebody only waits for callbacks, time has to go on.
    if (goesOff || ((scheduler.count() === 0 || ++waits % 50 === 0) && vi.getTimerCount() > 0))
      vi.advanceTimersToNextTimer();
    // Now and then two things happen at once, before anybody has taken notice of the first.
    else if (scheduler.count() > 0)
      await scheduler.waitNext(ticks[steps] === 1 && scheduler.count() > 1 ? 2 : 1);
    else break;
  }
  await performed;
  return {
    server,
    stream,
    events,
    told,
    written,
    rejected,
    progress,
    timersLeft: vi.getTimerCount(),
    options,
  };
}

function sinkOf(
  server: FakeServer,
  options: Plan['settings'],
  scheduler: Scheduler,
  rejected: number[],
): StreamSink<Item> {
  const { db } = server;
  const onReject = async ({ index }: { index: number }) => {
    rejected.push(index);
    await scheduler.schedule(Promise.resolve(), 'onReject');
  };
  const validate = (payload: unknown, index: number) => {
    const { kind } = payload as Item;
    const judge = () => {
      if (kind === 'bad' || kind === 'slowBad') throw new PayloadInvalidError(index, 'bad');
      return payload;
    };
    return kind.startsWith('slow')
      ? scheduler.schedule(Promise.resolve(), 'validation').then(judge)
      : judge();
  };
  return new StreamSink<Item>({
    db,
    queue: { id: '1', name: 'work', createdAt: new Date(0) },
    worker: { id: '1', incarnation: '2026-01-01T00:00:00Z' },
    fenced: () => {
      throw new Error('nobody fences the worker');
    },
    concurrency: options.concurrency,
    pace: () => Promise.resolve(),
    onCommit: () => undefined,
    check: new PayloadCheck(),
    validate: options.validates ? validate : undefined,
    resume: undefined,
    rejects: options.onReject
      ? new Rejects({
          onReject,
          rejectTo: undefined,
          maxRejects: undefined,
          meantFor: 'work',
          maxPayloadBytes: 1_000_000,
        })
      : undefined,
    delaySeconds: 0,
    dedupeKey: undefined,
    dedupeWindowSeconds: undefined,
    keyPurge: new KeyPurge(db),
    backlog: undefined,
    method: 'copy',
    retry: { retries: options.retries, baseMs: 1, maxMs: 4 },
    batchTimeoutMs: 30_000,
    turnMs: options.turnMs,
  });
}

function check(run: Run): void {
  const { server, stream, events, told, written, rejected, progress, options } = run;
  const { stats } = stream;
  const storable = ({ kind }: Item) =>
    kind !== 'badJson' && (!options.validates || (kind !== 'bad' && kind !== 'slowBad'));
  const items = written.map(({ item }) => item);
  const good = items.filter(storable).map(({ n }) => n);
  const committed = server.committed.map(({ n }) => n);

  // An exact prefix: nothing lost, doubled or out of order, neither by commits nor by delivery.
  expect(committed, 'committed').toEqual(good.slice(0, committed.length));
  const times = server.committed.map(({ vt }) => vt);
  expect(times, 'vt').toEqual([...times].sort((a, b) => a - b));
  expect(committed.length, 'commits after close').toBe(told.committedAtClose);

  // It ends once.
  expect(events.close, 'close').toBe(1);
  expect(events.finish + events.error, 'finish or error').toBeLessThanOrEqual(1);
  const silently = events.finish + events.error === 0;
  expect(silently && !told.destroyed, 'an end without a word, and without destroy()').toBe(false);
  for (const { callbacks } of written) expect(callbacks, 'callbacks of a write').toBe(1);
  if (told.endMayBeSilent) expect(told.endCallbacks, 'callbacks of end').toBeLessThanOrEqual(1);
  else expect(told.endCallbacks, 'callbacks of end').toBe(1);
  expect(run.timersLeft, 'timers').toBe(0);
  expect([told.inUseAtClose, server.inUse], 'clients in use').toEqual([0, 0]);
  if (events.finish > 0) {
    expect(committed, 'finish means committed').toEqual(good);
    expect(rejected, 'and reported').toEqual(items.filter((item) => !storable(item)).map(({ n }) => n));
  }

  // It says what it has done.
  if (events.reason instanceof SluiceError) expect(events.reason.progress, 'progress').toBe(progress);
  const doubt = progress?.inDoubt ? options.batchSize : 0;
  for (const said of [stats.committed, progress?.committed]) {
    expect(said, 'committed rows').toBeLessThanOrEqual(committed.length);
    expect(said, 'committed rows').toBeGreaterThanOrEqual(committed.length - doubt);
  }
  expect(items.slice(0, Number(stats.position)).filter(storable).length, 'position').toBe(stats.committed);
  expect({ batches: stats.batches, retries: stats.retries }, 'stats').toEqual({
    batches: told.batches,
    retries: told.retries,
  });
  expect(told.rows, 'rows of batches').toBeLessThanOrEqual(committed.length);
  const taken = written.filter(({ error }) => !error).length;
  expect(stats.accepted, 'accepted').toBeGreaterThanOrEqual(taken);
  expect(stats.accepted, 'accepted').toBeLessThanOrEqual(written.length);
  expect(stats.committed + stats.rejected + stats.duplicates, 'sum').toBeLessThanOrEqual(stats.accepted);
  if (events.finish > 0)
    expect(stats.committed + stats.rejected + stats.duplicates, 'sum').toBe(stats.accepted);
  expect(rejected, 'rejects in order, once').toEqual([...new Set(rejected)].sort((a, b) => a - b));
}
