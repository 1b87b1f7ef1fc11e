import { Stream } from 'node:stream';
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { ACTIVE_FILTER, LIST_ACTIVE } from '../../src/active-messages.js';
import * as known from '../../src/admin-options.js';
import { ARCHIVE_FILTER, LIST_ARCHIVE, PURGE_ARCHIVE } from '../../src/archive.js';
import { LOAD_NAMES } from '../../src/config.js';
import { CONFIG_NAMES, SETTING_NAMES } from '../../src/config-source.js';
import { CONNECT_SETTINGS, CONNECT_WITH_POOL, Sluice } from '../../src/connect.js';
import { RUN, RUN_BATCH } from '../../src/consume/run-options.js';
import { CONSUMER, CONSUMER_CREATE, LEASE, MESSAGES } from '../../src/consumer-options.js';
import { DEAD_LETTER_FILTER, LIST_DEAD_LETTERS } from '../../src/dead-letters.js';
import * as exported from '../../src/index.js';
import { ENQUEUE, ENQUEUE_DELAYED } from '../../src/ingest/enqueue-options.js';
import { WRITABLE } from '../../src/ingest/writable-options.js';
import { DEAD_LETTER, RELEASE, SETTLE } from '../../src/message.js';
import { PRODUCER, PRODUCER_CREATE } from '../../src/producer-options.js';
import { PAYLOAD_RULES } from '../../src/validation.js';
import { RATE_LIMIT } from '../../streams/rate-limit.js';
import { within } from '../support/eventually.js';
import { type Scenario, scenario } from '../support/scenario.js';
import { JUNK } from './junk.js';

/** What there is: connect() alone makes a Sluice. */
const api = { ...exported, Sluice };

/** How long to go on; a call that fails is told with the seed that brings it again. */
const TIME_MS = 20_000;
const CALL_MS = 8_000;

/** An object of options: what is valid, and the names of all that there are. */
class Options {
  constructor(
    readonly names: object,
    readonly valid: object = {},
  ) {}
}

interface Call {
  /** On what it is called; a function is called itself. */
  on: () => unknown;
  args: readonly unknown[];
}

const NOBODY = '999999999999';
const handler = () => undefined;
/** A run that begins is over at once. */
const over = () => ({ signal: AbortSignal.abort() });

/** Every call of the API that takes arguments, with valid ones. */
async function callsOf({ sluice, queue, pool, url, schema }: Scenario): Promise<Record<string, Call>> {
  const { admin } = sluice;
  const config = api.Config.fromDsn(url, { schema });
  const producer = await sluice.producer('work');
  const consumer = await sluice.consumer('work');
  await producer.enqueue('a message');
  const message = (await consumer.dequeue({ lockSeconds: 3_600 }))!;
  await admin.createQueue('other');
  const archive = admin.archive('other');
  const dead = admin.deadLetters('other');
  const active = admin.messages('other');
  const none = new Options({ client: true });
  const call = (name: string, on: unknown, ...args: unknown[]): [string, Call] => [
    name,
    { on: () => on, args },
  ];
  const age = new Options({ seconds: true, minutes: true }, { seconds: 1 });
  const create = { pool, queue, config };
  return Object.fromEntries([
    call('connect', api.connect, url, new Options(CONNECT_SETTINGS, { schema })),
    call('connect.', api.connect, new Options(CONNECT_WITH_POOL, { pool, schema })),
    call('rateLimit', api.rateLimit, new Options(RATE_LIMIT, { perSecond: 1 })),
    call('Sluice.producer', sluice, 'work', new Options(PRODUCER)),
    call('Sluice.consumer', sluice, 'work', new Options(CONSUMER)),
    call('Admin.create', api.Admin, config),
    call('Admin.createQueue', admin, 'other', new Options(known.CREATE_QUEUE, { ifExists: 'open' })),
    ...[
      'getQueue',
      'pauseQueue',
      'resumeQueue',
      'queueSettings',
      'messages',
      'deadLetters',
      'archive',
      'workerStats',
    ].map((name) => call(`Admin.${name}`, admin, 'other')),
    ...['deleteQueue', 'purgeQueue', 'getStream', 'deleteStream'].map((name) =>
      call(`Admin.${name}`, admin, 'none'),
    ),
    call('Admin.setRetention', admin, 'other', new Options(known.RETENTION)),
    call('Admin.sweepExhausted', admin, new Options(known.SWEEP, { queue: 'other' })),
    call('Admin.listWorkers', admin, new Options(known.LIST_WORKERS)),
    call('Admin.reclaim', admin, new Options(known.RECLAIM, { queue: 'other', olderThanSeconds: 9_999 })),
    call('Admin.purgeWorkers', admin, new Options(known.PURGE_WORKERS, { queue: 'other' })),
    ...['deleteWorker', 'releaseWorkerMessages', 'worker', 'getMessage'].map((name) =>
      call(`Admin.${name}`, admin, NOBODY),
    ),
    call('Admin.workerMessages', admin, NOBODY, new Options(known.WORKER_MESSAGES)),
    call('Admin.queueMetrics', admin, 'other', new Options(known.METRICS)),
    call('Admin.allQueuesMetrics', admin, new Options(known.METRICS)),
    call('Admin.systemStats', admin, new Options(known.METRICS)),
    call('Admin.workerHealthStats', admin, new Options(known.WORKER_HEALTH)),
    call('ActiveMessages.list', active, new Options(LIST_ACTIVE)),
    call('ActiveMessages.count', active, new Options(ACTIVE_FILTER)),
    call('Archive.list', archive, new Options(LIST_ARCHIVE)),
    call('Archive.count', archive, new Options(ARCHIVE_FILTER)),
    call('Archive.purge', archive, new Options(PURGE_ARCHIVE, { olderThanSeconds: 1 })),
    call('Archive.delete', archive, [NOBODY]),
    call('DeadLetters.list', dead, new Options(LIST_DEAD_LETTERS)),
    call('DeadLetters.count', dead, new Options(DEAD_LETTER_FILTER)),
    call('DeadLetters.replay', dead, new Options(DEAD_LETTER_FILTER, { reason: 'none' })),
    call('DeadLetters.purge', dead, new Options(DEAD_LETTER_FILTER, { reason: 'none' })),
    call('Config.fromDsn', api.Config, url, new Options(SETTING_NAMES)),
    call('Config.fromDsnWithSchema', api.Config, url, schema),
    call('Config.fromEnv', api.Config, { PGQRS_DSN: url }),
    call('Config.fromFile', api.Config, 'none.yaml'),
    call('Config.load', api.Config, new Options(LOAD_NAMES, { dsn: url, env: {} })),
    call('Config.with', config, new Options(CONFIG_NAMES)),
    call('Producer.create', api.Producer, new Options(PRODUCER_CREATE, create)),
    call('Producer.enqueue', producer, undefined, new Options(ENQUEUE)),
    call('Producer.enqueueDelayed', producer, undefined, 1, new Options(ENQUEUE_DELAYED)),
    call('Producer.batchEnqueue', producer, [undefined], new Options(ENQUEUE)),
    call('Producer.cancel', producer, NOBODY, none),
    call(
      'Producer.reschedule',
      producer,
      NOBODY,
      new Options({ at: true, delaySeconds: true }, { delaySeconds: 1 }),
      none,
    ),
    call('Producer.replay', producer, NOBODY),
    call('Producer.extendVisibility', producer, NOBODY, 1),
    call('Producer.writable', producer, new Options(WRITABLE)),
    call('Producer.ingest', producer, [undefined], new Options(WRITABLE)),
    call('Producer.isHealthy', producer, age),
    call('Consumer.create', api.Consumer, new Options(CONSUMER_CREATE, create)),
    call('Consumer.dequeue', consumer, new Options(LEASE)),
    call('Consumer.dequeueMany', consumer, 1, new Options(LEASE)),
    call('Consumer.messages', consumer, new Options(MESSAGES)),
    call('Consumer.run', consumer, handler, new Options(RUN, over())),
    call('Consumer.runBatch', consumer, handler, new Options(RUN_BATCH, over())),
    ...['archive', 'delete'].map((name) => call(`Consumer.${name}`, consumer, NOBODY)),
    ...['archiveMany', 'deleteMany'].map((name) => call(`Consumer.${name}`, consumer, [NOBODY])),
    call('Consumer.release', consumer, NOBODY, new Options({ delaySeconds: true })),
    call('Consumer.releaseMany', consumer, [NOBODY], new Options({ delaySeconds: true })),
    call('Consumer.extendVisibility', consumer, { id: NOBODY, readCount: 1 }, 1),
    call('Consumer.isHealthy', consumer, age),
    call('Message.archive', message, new Options(SETTLE)),
    call('Message.delete', message, new Options(SETTLE)),
    call('Message.release', message, new Options(RELEASE)),
    call('Message.fail', message, new Error('failed'), new Options(SETTLE)),
    call('Message.deadLetter', message, 'a reason', new Options(DEAD_LETTER)),
    call('Message.extendVisibility', message, 1),
    call('WorkerHandle.isHealthy', admin.worker(NOBODY), age),
    [
      'PayloadCheck',
      { on: () => (rules: never) => new api.PayloadCheck(rules), args: [new Options(PAYLOAD_RULES)] },
    ],
    call('PayloadCheck.toJson', new api.PayloadCheck(), undefined),
  ]);
}

/** Calls without arguments, and what is for the library itself. */
const WITHOUT =
  `Sluice.close Admin.install Admin.verify Admin.uninstall Admin.listQueues Admin.listStreams Admin.close Admin.over
  Config.toJSON Config.toString Config.of Producer.open Producer.close Consumer.open Consumer.close Consumer.shutdown PayloadCheck.checkSize
  ${['Producer', 'Consumer', 'WorkerHandle'].map((on) => `${on}.status ${on}.heartbeat ${on}.suspend ${on}.resume ${on}.poll ${on}.completePoll ${on}.interrupt ${on}.shutdown`).join(' ')}
  WorkerHandle.info Producer.create Consumer.create MessageStream.destroy ProducerStream.destroy`.split(
    /\s+/,
  );

/** Constructors that are for the library itself, or are no more than records. */
const CLASSES = [
  'Sluice',
  'Admin',
  'ActiveMessages',
  'Archive',
  'DeadLetters',
  'Config',
  'Producer',
  'Consumer',
  'PayloadCheck',
  'WorkerHandle',
] as const;

test('the calls below are all that there are', async () => {
  const calls = await callsOf(await scenario());
  const missing: string[] = [];
  for (const name of CLASSES) {
    const type = api[name] as unknown as { prototype: object };
    const methods = new Set(
      Object.getOwnPropertyNames(type).filter((key) => typeof (type as never)[key] === 'function'),
    );
    for (
      let proto = type.prototype;
      proto.constructor.name !== 'EventEmitter' && proto !== Object.prototype;
    ) {
      for (const [key, { value }] of Object.entries(Object.getOwnPropertyDescriptors(proto)))
        if (typeof value === 'function' && key !== 'constructor') methods.add(key);
      proto = Object.getPrototypeOf(proto) as object;
    }
    // TypeScript's own word for them: the compiler keeps them from callers.
    const inner =
      'register assertNotFenced assertRunning assertReady whenReady watchReadiness leave fence'.split(' ');
    for (const method of methods)
      if (!calls[`${name}.${method}`] && !WITHOUT.includes(`${name}.${method}`) && !inner.includes(method))
        missing.push(`${name}.${method}`);
  }
  const functions = Object.entries(api).filter(
    ([name, value]) =>
      typeof value === 'function' && !(CLASSES as readonly string[]).includes(name) && /^[a-z]/.test(name),
  );
  expect(functions.map(([name]) => name).filter((name) => !calls[name])).toEqual([]);
  expect(missing).toEqual([]);
});

/** The messages and queues, whatever else happens to workers meanwhile. */
async function contents({ pool, schema }: Scenario): Promise<unknown> {
  const { rows } = await pool.query(`
    select (select md5(coalesce(string_agg(m::text, '|' order by m.id), '')) from ${schema}.pgqrs_messages m) as messages,
      (select md5(coalesce(string_agg(q::text, '|' order by q.id), '')) from ${schema}.pgqrs_queues q) as queues`);
  return rows[0];
}

/** What a call made that would go on by itself. */
async function endOf(result: unknown): Promise<void> {
  if (result instanceof Stream)
    (result.on('error', () => undefined) as unknown as { destroy(): void }).destroy();
  else if (result instanceof api.Worker || result instanceof api.Sluice || result instanceof api.Admin)
    await result.close();
}

test('every call with wrong arguments answers with an error of ours, or does nothing', async () => {
  const here = await scenario({ maxConnections: 6 });
  const calls = await callsOf(here);
  const unhandled: unknown[] = [];
  const onUnhandled = (reason: unknown) => void unhandled.push(reason);
  process.on('unhandledRejection', onUnhandled);
  onTestFinished(() => void process.off('unhandledRejection', onUnhandled));
  let before = await contents(here);

  const wrong = fc.constantFrom(...Object.entries(calls)).chain(([name, call]) =>
    fc.integer({ min: 0, max: call.args.length - 1 }).chain((place) => {
      const options = call.args[place];
      const option =
        options instanceof Options
          ? fc.option(fc.constantFrom(...Object.keys(options.names), 'bogus'), { nil: undefined })
          : fc.constant(undefined);
      return fc.record({
        name: fc.constant(name),
        place: fc.constant(place),
        option,
        junk: fc.constantFrom(...Object.keys(JUNK)),
      });
    }),
  );
  const seed = Number(process.env['SLUICE_SEED'] ?? Date.now() % 1_000_000);
  let made = 0;
  const faults = new Map<string, string>();
  await fc.assert(
    fc.asyncProperty(wrong, async ({ name, place, option, junk }) => {
      const { on, args } = calls[name]!;
      const value = JUNK[junk]!();
      const given = args.map((arg, at) => {
        const valid = arg instanceof Options ? arg.valid : arg;
        if (at !== place) return valid;
        return option === undefined ? value : { ...(valid as object), [option]: value };
      });
      // A run without its signal goes on for ever, as it should.
      if (/run/.test(name) && junk === 'undefined' && place === 1) return;
      if (/run/.test(name) && place === 1 && option === undefined && /object|prototype/.test(junk)) return;
      const fault = (what: unknown) => {
        const told =
          what instanceof Error ? (what.stack ?? '').split('\n').slice(0, 3).join(' ') : String(what);
        faults.set(`${name}, ${option ?? `argument ${place}`}: ${told}`, junk);
      };
      const target = on();
      const method = name.split('.')[1] ?? '';
      let result: unknown;
      let error: unknown;
      made++;
      try {
        const calling = (async () =>
          typeof target === 'function' && !method
            ? await (target as (...args: unknown[]) => unknown)(...given)
            : await (target as Record<string, (...args: unknown[]) => unknown>)[method]!(...given))();
        result = await within(CALL_MS, `${name} with ${junk} for ${option ?? place}`, calling);
      } catch (thrown) {
        error = thrown;
      }
      await endOf(result);
      if (error !== undefined) {
        const ours = error instanceof api.SluiceError && typeof error.code === 'string';
        const aborted = (error as Error).name === 'AbortError';
        if (!ours && !aborted) fault(error);
        const after = await contents(here);
        if (!isDeepStrictEqual(after, before)) fault('it changed something, and failed');
        before = after;
      } else before = await contents(here);
      if (unhandled.length > 0) fault(unhandled.splice(0)[0]);
    }),
    {
      seed,
      numRuns: 100_000,
      interruptAfterTimeLimit: TIME_MS,
      markInterruptAsFailure: false,
      endOnFailure: true,
    },
  );
  console.log(`${made} calls with wrong arguments; SLUICE_SEED=${seed} makes them again`);
  expect([...faults]).toEqual([]);
  expect(made).toBeGreaterThan(100);
}, 120_000);

test.each([false, true])(
  'whatever a handler throws, its message has failed (transactional: %s)',
  async (transactional) => {
    const here = await scenario();
    const kinds = Object.keys(JUNK);
    await (await here.producer()).batchEnqueue(kinds);
    const consumer = await here.consumer({ maxReadCount: 1 });
    const ended = new AbortController();
    let failed = 0;
    consumer.on('failed', () => {
      if (++failed === kinds.length) ended.abort();
    });
    const handle = ({ payload }: exported.Message<string>) => {
      throw JUNK[payload]!() as Error;
    };
    const { signal } = ended;
    const summary = await within(
      30_000,
      'the run',
      consumer.run<string>(handle, transactional ? { signal, transactional } : { signal }),
    );
    expect(summary).toMatchObject({ done: 0, dead: kinds.length, lost: 0 });
    expect(await here.sluice.admin.deadLetters('work').count({ reason: 'exhausted' })).toBe(kinds.length);
  },
);

test('whatever a schema throws, the call rejects with an error of ours', async () => {
  const here = await scenario();
  for (const kind of Object.keys(JUNK)) {
    const validate = () => {
      throw JUNK[kind]!() as Error;
    };
    const producer = await here.producer({
      schema: { '~standard': { version: 1, vendor: 'junk', validate } },
    });
    for (const call of [
      () => producer.enqueue(1),
      () => producer.batchEnqueue([1]),
      () => producer.ingest([1]),
    ]) {
      const error = await within<unknown>(CALL_MS, kind, call()).catch((thrown: unknown) => thrown);
      expect(error, kind).toBeInstanceOf(exported.SluiceError);
    }
    await producer.close();
  }
  expect(await here.count()).toBe(0);
});
