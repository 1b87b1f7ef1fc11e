import { Readable } from 'node:stream';
import { expect, onTestFinished, test } from 'vitest';
import {
  Config,
  connect,
  Consumer,
  InvalidOptionError,
  PayloadCheck,
  Producer,
  rateLimit,
  type Sluice,
} from '../src/index.js';
import { freshSchema } from './support/database.js';
import { scenario } from './support/scenario.js';

/** What a user without a compiler may pass. */
const any = (value: unknown) => value as never;

async function refusal(call: () => unknown): Promise<string> {
  try {
    await call();
  } catch (error) {
    expect(error).toBeInstanceOf(InvalidOptionError);
    return (error as Error).message;
  }
  throw new Error(`not refused: ${call.toString()}`);
}

const codeOf = (error: unknown) => (error as InvalidOptionError).code;

test.each(['archive', 'delete', 'extendVisibility', 'release'] as const)(
  '%s of what is no message is refused by itself, and the calls beside it succeed',
  async (settle) => {
    const here = await scenario();
    const producer = await here.producer();
    await producer.batchEnqueue([1, 2]);
    const consumer = await here.consumer();
    const [one, two] = await consumer.dequeueMany(2);
    const call = (held: unknown) =>
      settle === 'extendVisibility' ? consumer.extendVisibility(any(held), 30) : consumer[settle](any(held));
    const bad = [
      -7,
      7.5,
      '',
      'x',
      null,
      undefined,
      {},
      { id: '7' },
      { id: 'x', readCount: 1 },
      [],
      '9'.repeat(30),
    ];
    const answers = await Promise.allSettled([call(one), ...bad.map(call), call(two?.id)]);
    expect(
      answers.map((answer) => (answer.status === 'rejected' ? codeOf(answer.reason) : answer.value)),
    ).toEqual([true, ...bad.map(() => 'INVALID_OPTION'), true]);
  },
);

test.each(['archiveMany', 'deleteMany', 'releaseMany'] as const)(
  '%s names the place of what is no message, and settles none',
  async (settle) => {
    const here = await scenario();
    const producer = await here.producer();
    await producer.enqueue(1);
    const consumer = await here.consumer();
    const message = await consumer.dequeue();
    expect(await refusal(() => consumer[settle]([message!, any(undefined)]))).toMatch(
      /^messages\[1\] must be an id/,
    );
    expect(await refusal(() => consumer[settle](any(undefined)))).toBe(
      'messages must be an array, got undefined',
    );
    expect(await consumer.archive(message!)).toBe(true);
  },
);

test('ids may be bigint or safe integers', async () => {
  const here = await scenario();
  const producer = await here.producer();
  const consumer = await here.consumer();
  const { admin } = here.sluice;
  const [a, b, c, d] = (await producer.batchEnqueue([1, 2, 3, 4])).map(({ id }) => id);
  expect((await admin.getMessage(BigInt(a!)))?.payload).toBe(1);
  expect((await admin.getMessage(Number(a)))?.payload).toBe(1);
  expect(await producer.reschedule(Number(d), { at: new Date(0) })).toBe(true);
  expect(await producer.cancel(BigInt(d!))).toBe(true);
  await consumer.dequeueMany(3);
  expect(await producer.extendVisibility(Number(a), 5)).toBe(true);
  expect(await consumer.archive(Number(a))).toBe(true);
  expect(await consumer.archive({ id: any(BigInt(b!)), readCount: 1 })).toBe(true);
  expect(await consumer.deleteMany([BigInt(c!)])).toEqual([true]);
  expect(await producer.replay(BigInt(a!))).toMatchObject({ id: a });
  expect(await admin.archive('work').delete([Number(b)])).toBe(1);
  expect(await admin.deadLetters('work').replay(BigInt(b!))).toBe(0);
  expect(admin.worker(Number(consumer.workerId)).workerId).toBe(consumer.workerId);
  expect(await admin.workerMessages(BigInt(consumer.workerId))).toEqual([]);
  expect(await refusal(() => admin.getMessage(2 ** 53))).toContain('messageId must be an id');
  expect(await refusal(() => admin.getMessage(2n ** 63n))).toContain('messageId must be an id');
});

test('to purge or replay everything takes { all: true }', async () => {
  const here = await scenario();
  const producer = await here.producer();
  await producer.batchEnqueue([1, 2, 3, 4]);
  const consumer = await here.consumer();
  const [done, ...rest] = await consumer.dequeueMany(4);
  await done!.archive();
  for (const message of rest) await message.deadLetter('bad');
  const dead = here.sluice.admin.deadLetters('work');
  const archive = here.sluice.admin.archive('work');
  const nothing = [
    {},
    { reason: undefined },
    { all: undefined },
    { all: false },
    { all: 'yes' },
    { all: true, reason: 'x' },
  ];
  for (const which of [...nothing, { reasn: 'bad' }, () => 1, Promise.resolve({ all: true }), new Date()]) {
    await refusal(() => dead.purge(any(which)));
    await refusal(() => dead.replay(any(which)));
  }
  for (const which of [
    undefined,
    null,
    {},
    { olderThanSeconds: undefined },
    { all: 1 },
    { olderThan: 5 },
    5,
    'all',
  ])
    await refusal(() => archive.purge(any(which)));
  expect([await dead.count(), await archive.count()]).toEqual([3, 1]);
  expect(await dead.purge({ reason: 'good' })).toBe(0);
  expect(await dead.replay({ all: true })).toBe(3);
  expect(await archive.purge({ all: true })).toBe(1);
});

test('unknown options are refused, with the name that was probably meant', async () => {
  const here = await scenario();
  const producer = await here.producer();
  const consumer = await here.consumer();
  await producer.enqueue(1);
  const message = await consumer.dequeue();
  const { sluice, queue, pool } = here;
  const { admin } = sluice;
  const config = Config.fromDsn(here.url, { schema: here.schema });
  const item = () => undefined;
  const calls: Record<string, [meant: string, call: (options: never) => unknown]> = {
    delaySecond: ['delaySeconds', (o) => producer.enqueue(1, o)],
    dedupKey: ['dedupeKey', (o) => producer.enqueueDelayed(1, 1, o)],
    dedupe_key: ['dedupeKey', (o) => producer.batchEnqueue([1], o)],
    cliant: ['client', (o) => producer.cancel('1', o)],
    klient: ['client', (o) => producer.reschedule('1', { delaySeconds: 1 }, o)],
    delayMs: ['delaySeconds', (o) => producer.reschedule('1', o)],
    batch: ['batchSize', (o) => producer.writable(o)],
    resumed: ['resume', (o) => producer.ingest([1], o)],
    posision: ['position', (o) => producer.ingest([1], { resume: Object.assign(o, { name: 'x' }) })],
    ration: ['ratio', (o) => producer.ingest([1], { maxRejects: o, onReject: item })],
    lockSecond: ['lockSeconds', (o) => consumer.dequeue(o)],
    locksSeconds: ['lockSeconds', (o) => consumer.dequeueMany(1, o)],
    preFetch_: ['prefetch', (o) => consumer.messages(o)],
    concurency: ['concurrency', (o) => consumer.run(item, o)],
    batchsizes: ['batchSize', (o) => consumer.runBatch(item, o)],
    delay: ['delaySeconds', (o) => consumer.release('1', o)],
    delays: ['delaySeconds', (o) => consumer.releaseMany(['1'], o)],
    clint: ['client', (o) => message!.archive(o)],
    clent: ['client', (o) => message!.delete(o)],
    delaySecs: ['delaySeconds', (o) => message!.release(o)],
    cliente: ['client', (o) => message!.fail(1, o)],
    err: ['error', (o) => message!.deadLetter('x', o)],
    minute: ['minutes', (o) => producer.isHealthy(o)],
    secs: ['seconds', (o) => admin.worker('1').isHealthy(o)],
    ifexist: ['ifExists', (o) => admin.createQueue('q', o)],
    archiveSecond: ['archiveSeconds', (o) => admin.setRetention('work', o)],
    queues: ['queue', (o) => admin.sweepExhausted(o)],
    staleFor: ['staleForSeconds', (o) => admin.listWorkers(o)],
    olderThan: ['olderThanSeconds', (o) => admin.reclaim(o)],
    limits: ['limit', (o) => admin.workerMessages('1', o)],
    olderSeconds: ['olderThanSeconds', (o) => admin.purgeWorkers(o)],
    maxReadCt: ['maxReadCount', (o) => admin.queueMetrics('work', o)],
    maxReads: ['maxReadCount', (o) => admin.allQueuesMetrics(o)],
    readCount: ['maxReadCount', (o) => admin.systemStats(o)],
    timeout: ['timeoutSeconds', (o) => admin.workerHealthStats(o)],
    archivedAfte: ['archivedAfter', (o) => admin.archive('work').list(o)],
    archivedBefor: ['archivedBefore', (o) => admin.archive('work').count(o)],
    stat: ['state', (o) => admin.messages('work').list(o)],
    states: ['state', (o) => admin.messages('work').count(o)],
    curser: ['cursor', (o) => admin.deadLetters('work').list(o)],
    deadBefor: ['deadBefore', (o) => admin.deadLetters('work').count(o)],
    persecond: ['perSecond', (o) => rateLimit(o)],
    maxStringByte: ['maxStringBytes', (o) => new PayloadCheck(o)],
    shema: ['schema', (o) => sluice.producer('work', o)],
    batchSizes: ['batchSize', (o) => sluice.consumer('work', o)],
    baseSecond: ['baseSeconds', (o) => sluice.consumer('work', { backoff: o })],
    hostnames: ['hostname', (o) => Producer.create({ pool, queue, config, ...(o as object) })],
    ports: ['port', (o) => Consumer.create({ pool, queue, config, ...(o as object) })],
    listenURL_: ['listenUrl', (o) => connect(here.url, o)],
    schemas: ['schema', (o) => connect({ dsn: here.url, ...(o as object) })],
    maxConnection: ['maxConnections', (o) => connect({ pool, ...(o as object) })],
  };
  for (const [wrong, [meant, call]] of Object.entries(calls)) {
    expect(await refusal(() => call(any({ [wrong]: 1 })))).toMatch(
      new RegExp(
        `^option of [\\w .]+(\\(\\))? must be a known name \\(nearest: ${meant}\\), got "${wrong}"$`,
      ),
    );
  }
});

test('what is no object is not taken for options', async () => {
  const here = await scenario();
  const producer = await here.producer();
  const consumer = await here.consumer();
  const throwing = Object.defineProperty({}, 'delaySeconds', {
    enumerable: true,
    get: () => {
      throw new Error('not now');
    },
  });
  for (const wrong of [
    'k',
    '',
    7,
    null,
    true,
    [],
    () => 1,
    Promise.resolve({}),
    AbortSignal.abort(),
    new Map(),
  ]) {
    expect(await refusal(() => producer.enqueue(1, any(wrong)))).toMatch(
      /^options of producer.enqueue\(\) must be/,
    );
    expect(await refusal(() => consumer.release('1', any(wrong)))).toMatch(
      /^options of consumer.release\(\)/,
    );
  }
  expect(await refusal(() => producer.enqueue(1, any(throwing)))).toBe(
    'options of producer.enqueue() must be an object, got something that throws when it is read',
  );
  expect(await refusal(() => producer.enqueue(1, { client: any(here.pool) }))).toContain(
    'client must be a client',
  );
  expect(await here.count()).toBe(0);
});

test('a dedupeKey for a batch is a function: one string would leave one of them', async () => {
  const here = await scenario();
  const producer = await here.producer();
  expect(await refusal(() => producer.batchEnqueue([1, 2, 3], { dedupeKey: any('k') }))).toBe(
    'dedupeKey must be a function, got "k"',
  );
  expect(await here.count()).toBe(0);
});

test('a string is no source: its characters would be the items', async () => {
  const here = await scenario();
  const producer = await here.producer();
  for (const source of ['abc', () => 'abc'])
    expect(await refusal(() => producer.ingest(any(source), { resume: 'letters' }))).toContain(
      'source must be an iterable',
    );
  expect((await producer.ingest(Readable.from(['abc', 'def']))).committed).toBe(2);
});

test('what is undefined counts as not given', async () => {
  const here = await scenario({ maxReadCount: 2, defaultLockTimeSeconds: 7 });
  const producer = await here.producer();
  await producer.enqueue(1, { delaySeconds: any(undefined), dedupeKey: any(undefined) });
  const consumer = await here.consumer({ lockSeconds: any(undefined), maxReadCount: any(undefined) });
  const message = await consumer.dequeue({ lockSeconds: any(undefined) });
  expect(message!.vt.getTime() - message!.dequeuedAt!.getTime()).toBe(7_000);
  await message!.release();
  await (await consumer.dequeue())!.fail('twice');
  expect(await here.sluice.admin.deadLetters('work').count({ reason: any(undefined) })).toBe(1);
});

test('names that UTF-8 would change are refused', async () => {
  const here = await scenario();
  const producer = await here.producer();
  const lone = 'a\ud800b';
  const { admin } = here.sluice;
  const calls = [
    () => admin.createQueue(lone),
    () => admin.getQueue(lone),
    () => admin.getStream(lone),
    () => admin.deadLetters('work').purge({ reason: lone }),
    () => here.producer({ hostname: lone }),
    () => producer.enqueue(1, { dedupeKey: lone }),
    () => producer.ingest([1], { resume: lone }),
    () => producer.ingest([1], { resume: { name: 'x', position: () => lone } }),
    () => producer.writable({ rejectTo: lone }),
    () => connect(here.url, { schema: lone }),
  ];
  for (const call of calls) await refusal(call);
  expect(await here.count()).toBe(0);
});

test('connect takes settings beside a URL, a Config and a pool', async () => {
  const here = freshSchema();
  onTestFinished(() => here.drop());
  const connected = async (connecting: Promise<Sluice>) => {
    const sluice = await connecting;
    onTestFinished(() => sluice.close());
    return sluice.admin.config;
  };
  const wanted = { schema: here.schema, maxConnections: 3 };
  expect(await connected(connect(here.url, wanted))).toMatchObject(wanted);
  const config = Config.fromDsn(here.url, { schema: 'another', maxReadCount: 9 });
  expect(await connected(connect(config, wanted))).toMatchObject({ ...wanted, maxReadCount: 9 });
  expect(await connected(connect({ dsn: here.url, schema: 'another' }, wanted))).toMatchObject(wanted);
  expect(await connected(connect({ pool: here.pool, schema: 'another' }, wanted))).toMatchObject(wanted);
  const sluice = await connect(here.url, wanted);
  onTestFinished(() => sluice.close());
  await sluice.admin.install();
  const { rows } = await here.pool.query(
    `select to_regclass('${here.schema}.pgqrs_messages') is not null as there`,
  );
  expect(rows).toEqual([{ there: true }]);
});

test('calls without what they need say what that is', async () => {
  const here = await scenario();
  const producer = await here.producer();
  const call = (...args: unknown[]) => args as [];
  expect(await refusal(() => connect(any({ pool: undefined })))).toBe(
    'pool must be a pool of pg, got undefined',
  );
  expect(await refusal(() => connect(any({ pool: {} })))).toBe('pool must be a pool of pg, got an object');
  expect(await refusal(() => rateLimit(any(undefined)))).toContain('rateLimit.perSecond must be a number');
  expect(await refusal(() => producer.isHealthy(any(undefined)))).toContain('age.seconds must be a number');
  expect(await refusal(() => producer.isHealthy({}))).toContain('age.seconds must be a number');
  expect(
    await refusal(() => here.sluice.admin.worker('1').isHealthy(...(call() as unknown as [never]))),
  ).toContain('age.seconds must be a number');
  for (const signal of ['stop', 0, null, false, {}, Promise.resolve()]) {
    const refused = `signal must be an AbortSignal`;
    const consumer = await here.consumer();
    expect(await refusal(() => producer.writable({ signal: any(signal) }))).toContain(refused);
    expect(await refusal(() => consumer.messages({ signal: any(signal) }))).toContain(refused);
    expect(await refusal(() => consumer.run(() => 1, { signal: any(signal) }))).toContain(refused);
    expect(await refusal(() => rateLimit({ perSecond: 1, signal: any(signal) }))).toContain(refused);
  }
});
