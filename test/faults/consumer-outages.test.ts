import { once } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { type ConfigOptions, connect, type Message } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { type Bytes, startProxy } from '../support/proxy.js';
import { numbered, scenario, type Scenario } from '../support/scenario.js';

type Item = Message<{ n: number }>;

const PATIENT = { pollIntervalMs: 3_600_000 };

/** Everything of ours goes through a proxy; producers and the test's own SQL do not. */
async function behindProxy(s: Scenario, settings: ConfigOptions = {}) {
  const proxy = await startProxy(s.url);
  const url = new URL(proxy.url);
  url.searchParams.set('application_name', `behind-${s.schema}`);
  const sluice = await connect({ dsn: url.href, schema: s.schema, ...settings });
  onTestFinished(async () => {
    proxy.judge = () => 'pass';
    proxy.door = 'open';
    await sluice.close().catch(() => undefined);
    await proxy[Symbol.asyncDispose]();
  });
  return { proxy, sluice };
}

const claims = ({ from, data }: Bytes) => from === 'client' && data.includes('sluice:claim_messages');
const givesBack = ({ from, data }: Bytes) => from === 'client' && data.includes('sluice:give_back_messages');

/** Archives what comes, once each, and counts how often it came. */
function collecting(stream: NodeJS.EventEmitter) {
  const times = new Map<number, number>();
  stream.on('data', (message: Item) => {
    times.set(message.payload.n, (times.get(message.payload.n) ?? 0) + 1);
    void message.archive().catch(() => undefined);
  });
  return times;
}

test('killed LISTEN connections lose no message, though nothing is polled', async () => {
  const s = await scenario();
  const { sluice } = await behindProxy(s, PATIENT);
  const consumer = await sluice.consumer('work');
  const listening = once(consumer, 'listening');
  const times = collecting(consumer.messages());
  await listening;
  const producer = await s.producer();
  for (let n = 0; n < 6; n++) {
    const again = once(consumer, 'listening');
    const killed = s.pool.query<{ ended: boolean }>(
      `select pg_terminate_backend(pid) as ended from pg_stat_activity
       where application_name = $1 and query ~ '^LISTEN'`,
      [`behind-${s.schema}`],
    );
    // While it is away, and while it comes back.
    await producer.ingest(numbered(1, 2 * n));
    expect((await killed).rows).toEqual([{ ended: true }]);
    await within(5_000, 'listening again', again);
    await producer.ingest(numbered(1, 2 * n + 1));
  }
  await eventually('all of them', () => times.size === 12);
  expect(new Set(times.values())).toEqual(new Set([1]));
});

test('a claim whose connection breaks is an event, and is made again', async () => {
  const s = await scenario();
  await (await s.producer()).ingest(numbered(200), { batchSize: 50 });
  const { proxy, sluice } = await behindProxy(s, PATIENT);
  let cuts = 0;
  proxy.judge = (bytes) => (claims(bytes) && ++cuts % 2 === 1 && cuts < 8 ? 'cut' : 'pass');
  const consumer = await sluice.consumer('work');
  const errors: Error[] = [];
  consumer.on('claimError', (error) => errors.push(error));
  const stream = consumer.messages({ prefetch: 40 });
  const times = collecting(stream);
  await eventually('all of them', () => times.size === 200);
  expect(new Set(times.values())).toEqual(new Set([1]));
  expect(errors.length).toBe(4);
  expect(errors[0]).toMatchObject({ code: 'CONNECTION_FAILED' });
  stream.destroy();
});

test('messages whose claim was carried out but not answered come again when their lease ends', async () => {
  const s = await scenario();
  await (await s.producer()).ingest(numbered(10));
  const { proxy, sluice } = await behindProxy(s, PATIENT);
  let cut = false;
  proxy.judge = (bytes) => {
    if (cut || !claims(bytes)) return 'pass';
    cut = true;
    return 'passThenCut';
  };
  const consumer = await sluice.consumer('work');
  const times = collecting(consumer.messages({ lockSeconds: 1 }));
  await eventually('all of them', () => times.size === 10);
  const { rows } = await s.pool.query<{ read_ct: number }>(
    `select distinct read_ct from ${s.schema}.pgqrs_messages`,
  );
  expect(rows.every(({ read_ct }) => read_ct <= 2)).toBe(true);
});

test('a stream outlives its server', async () => {
  const s = await scenario();
  const { proxy, sluice } = await behindProxy(s, { pollIntervalMs: 50 });
  const consumer = await sluice.consumer('work');
  const times = collecting(consumer.messages());
  const events: string[] = [];
  for (const event of ['deaf', 'listening', 'claimError'] as const)
    consumer.on(event, () => events.push(event));
  await eventually('listening', () => events.includes('listening'));
  proxy.door = 'shut';
  proxy.cutAll();
  await (await s.producer()).ingest(numbered(3));
  await eventually('three failed claims', () => events.filter((event) => event === 'claimError').length >= 3);
  expect(events.filter((event) => event === 'deaf')).toHaveLength(1);
  proxy.door = 'open';
  await eventually('all of them', () => times.size === 3);
  await eventually('listening again', () => events.filter((event) => event === 'listening').length >= 2);
});

test('destroying a stream whose server is gone ends it without an error', async () => {
  const s = await scenario();
  await (await s.producer()).ingest(numbered(10));
  const { proxy, sluice } = await behindProxy(s);
  const consumer = await sluice.consumer('work');
  const stream = consumer.messages({ prefetch: 10 });
  stream.on('readable', () => undefined);
  await eventually('a full prefetch', async () => {
    const { rows } = await s.pool.query(
      `select from ${s.schema}.pgqrs_messages where consumer_worker_id is not null`,
    );
    return rows.length === 10;
  });
  proxy.door = 'shut';
  proxy.cutAll();
  stream.destroy();
  await within(5_000, 'the end', once(stream, 'close'));
  expect(stream.errored).toBeNull();
});

test('a black-holed server holds up neither the end of a stream nor close() for long', async () => {
  const s = await scenario();
  await (await s.producer()).ingest(numbered(5));
  const { proxy, sluice } = await behindProxy(s, { ...PATIENT, connectionTimeoutSeconds: 2 });
  const consumer = await sluice.consumer('work');
  const listening = once(consumer, 'listening');
  const stream = consumer.messages();
  const first = once(stream, 'data');
  await listening;
  await first;
  let holes = 0;
  proxy.judge = (bytes) => {
    if (bytes.from === 'client') holes++;
    return 'hole';
  };
  proxy.door = 'hole';
  await (await s.producer()).ingest(numbered(1, 5));
  // The notification is lost as well; another claim is made to see it hang.
  const hanging = consumer.dequeue().catch((error: unknown) => error);
  await eventually('a claim in the hole', () => holes > 0);
  const from = performance.now();
  stream.destroy();
  await within(4_000, 'the end of the stream', once(stream, 'close'));
  const closing = consumer.close().catch((error: unknown) => error);
  expect(await within(12_000, 'close', closing)).toMatchObject({ transient: true });
  expect(performance.now() - from).toBeLessThan(14_000);
  proxy.cutAll();
  expect(await within(5_000, 'the claim', hanging)).toMatchObject({ transient: true });
});

test('a give-back that gets no answer holds nothing up', async () => {
  const s = await scenario();
  await (await s.producer()).ingest(numbered(5));
  const { proxy, sluice } = await behindProxy(s);
  const consumer = await sluice.consumer('work');
  proxy.judge = (bytes) => (givesBack(bytes) ? 'hole' : 'pass');
  const got: number[] = [];
  const reading = (async () => {
    for await (const { payload } of consumer.messages<{ n: number }>()) {
      got.push(payload.n);
      break;
    }
  })();
  await within(4_000, 'the loop', reading);
  expect(got).toEqual([0]);
});
