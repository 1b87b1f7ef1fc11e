import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import type { Producer, WritableOptions } from '../../src/index.js';
import type { ProducerStream } from '../../streams/producer-stream.js';
import type { BacklogEvent } from '../../streams/sink.js';
import { eventually, within } from '../support/eventually.js';
import { numbered, type Scenario, scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';
import { behindProxy, closed, counted, expectNothingLeft, numbers } from './support.js';

/** Messages that a consumer would get. */
async function ready({ pool, schema }: Scenario): Promise<number> {
  const { rows } = await pool.query<{ count: number }>(
    `select count(*)::int from ${schema}.pgqrs_messages
     where vt <= now() and archived_at is null and consumer_worker_id is null`,
  );
  return rows[0]!.count;
}

/** Takes `count` messages away, as a consumer would. */
const take = ({ pool, schema }: Scenario, count: number) =>
  pool.query(`delete from ${schema}.pgqrs_messages where id in (
    select id from ${schema}.pgqrs_messages order by vt, id limit ${count})`);

/** A stream that is fed `items`, and the times that it waited. */
function feed(producer: Producer, items: number, options: WritableOptions<object>) {
  const stream = producer.writable<object>(options);
  const waits: BacklogEvent[] = [];
  stream.on('backlog', (event) => waits.push(event));
  const events = counted(stream);
  const loaded = pipeline(Readable.from(numbered(items)), stream).catch((error: unknown) => error as Error);
  return { stream, waits, events, loaded };
}

async function endOf(stream: ProducerStream<object>): Promise<void> {
  stream.destroy();
  await closed(stream);
}

test.each([1, 2, 7, 10, 15, 100, 999])(
  'a queue that nobody reads gets %i messages and not one more, four batches in flight or not',
  async (maxBacklog) => {
    const s = await scenario();
    const { stream, waits, events } = feed(await s.producer(), 5_000, { maxBacklog, concurrency: 4 });
    const batches: number[] = [];
    stream.on('batch', ({ rows }) => batches.push(rows));
    await eventually('two looks at a full queue', () => waits.length >= 2);
    // A batch that does not fit is not cut.
    const batch = Math.ceil(maxBacklog / 10);
    expect(await s.count()).toBeLessThanOrEqual(maxBacklog);
    expect(await s.count()).toBe(Math.floor(maxBacklog / batch) * batch);
    expect(Math.max(...batches)).toBe(batch);
    expect(waits.map(({ delayMs }) => delayMs)).toEqual([250, 500, 1_000, 2_000].slice(0, waits.length));
    expect(waits[1]!.ready).toBe(await ready(s));
    await endOf(stream);
    expect(events).toMatchObject({ finish: 0, close: 1, error: 0 });
    await expectNothingLeft(s);
  },
);

test('with a slow consumer the queue is never fuller than it may be, and everything arrives in order', async () => {
  const s = await scenario();
  const maxBacklog = 200;
  const consumer = await s.consumer();
  const { stream, waits, events, loaded } = feed(await s.producer(), 1_500, { maxBacklog, concurrency: 3 });
  let over = false;
  void loaded.finally(() => (over = true));
  const samples: number[] = [];
  const sampling = eventually(
    'the load',
    async () => {
      samples.push(await ready(s));
      return over;
    },
    25_000,
  );
  const consumed: number[] = [];
  await eventually(
    'everything to be consumed',
    async () => {
      const messages = await consumer.dequeueMany(20);
      consumed.push(...messages.map(({ payload }) => (payload as { n: number }).n));
      await consumer.archiveMany(messages);
      return consumed.length === 1_500;
    },
    25_000,
  );
  await Promise.all([loaded, sampling]);
  expect(events).toMatchObject({ finish: 1, error: 0 });
  expect(consumed).toEqual(numbers(1_500));
  expect(samples.length).toBeGreaterThan(50);
  expect(Math.max(...samples)).toBeLessThanOrEqual(maxBacklog);
  expect(Math.max(...samples)).toBeGreaterThan(maxBacklog / 2);
  expect(waits.length).toBeGreaterThanOrEqual(3);
  expect(stream.stats).toMatchObject({ committed: 1_500, retries: 0 });
});

test('a full queue has room again below nine tenths, not at the first message that is taken', async () => {
  const s = await scenario();
  const { stream, waits } = feed(await s.producer(), 1_000, { maxBacklog: 100 });
  await eventually('the stream to wait', () => waits.length > 0);
  await take(s, 10);
  const looks = waits.length;
  await eventually('two more looks', () => waits.length >= looks + 2);
  expect(await s.count()).toBe(90);
  expect(waits.at(-1)).toMatchObject({ ready: 90 });
  await take(s, 1);
  await eventually('a batch', async () => (await s.count()) === 99);
  await endOf(stream);
});

test('messages that are delayed, leased, archived or dead do not count; leases that ran out do', async () => {
  const s = await scenario();
  const { pool, schema } = s;
  const producer = await s.producer();
  await producer.ingest(numbered(60), { delaySeconds: 3_600 });
  await producer.ingest(numbered(120));
  const consumer = await s.consumer({ lockSeconds: 600 });
  await consumer.dequeueMany(60);
  await consumer.archiveMany(await consumer.dequeueMany(60));
  await producer.ingest(numbered(60));
  await pool.query(`update ${schema}.pgqrs_messages set read_ct = 5
                    where vt <= now() and consumer_worker_id is null and archived_at is null`);
  const other = await s.sluice.admin.createQueue('other');
  await pool.query(
    `insert into ${schema}.pgqrs_messages (queue_id, payload) select ${other.id}, '1' from generate_series(1, 60)`,
  );
  const first = feed(producer, 50, { maxBacklog: 50 });
  await within(10_000, 'the load', first.loaded);
  expect(first.events).toMatchObject({ finish: 1, error: 0 });
  expect(first.waits).toEqual([]);

  const expired = await consumer.dequeueMany(50);
  expect(expired).toHaveLength(50);
  await pool.query(
    `update ${schema}.pgqrs_messages set vt = now() - interval '1 second' where id = any ($1) `,
    [expired.map(({ id }) => id)],
  );
  const second = feed(producer, 50, { maxBacklog: 50 });
  await eventually('the stream to wait', () => second.waits.length > 0);
  expect(second.waits[0]).toMatchObject({ ready: 50 });
  expect(second.stream.stats.committed).toBe(0);
  await endOf(second.stream);
});

test.each(['destroy', 'abort', 'close'])('%s ends a stream that waits at once', async (how) => {
  const s = await scenario();
  const producer = await s.producer();
  const abort = new AbortController();
  const { stream, waits, events } = feed(producer, 1_000, { maxBacklog: 10, signal: abort.signal });
  await eventually('a long wait', () => waits.some(({ delayMs }) => delayMs === 2_000));
  const looks = waits.length;
  const ending = closed(stream);
  if (how === 'destroy') stream.destroy();
  if (how === 'abort') abort.abort();
  if (how === 'close') void producer.close();
  await within(1_000, how, ending);
  expect(waits).toHaveLength(looks);
  expect(events).toMatchObject({ finish: 0, close: 1, error: how === 'destroy' ? 0 : 1 });
  if (events.reason) expect(events.reason.code).toBe(how === 'close' ? 'CLOSED' : 'ABORT_ERR');
  expect(stream.stats.committed).toBe(10);
  expect(await s.count()).toBe(10);
  await expectNothingLeft(s);
});

test('destroy does not wait for a count that nobody answers', async () => {
  const behind = await behindProxy();
  const { proxy, through } = behind;
  let asked = false;
  proxy.judge = ({ data }) => {
    const counts = data.includes('sluice:count_ready');
    asked ||= counts;
    return counts ? 'hole' : 'pass';
  };
  const { stream, events } = feed(through, 100, { maxBacklog: 10 });
  await eventually('a count', () => asked);
  const ending = closed(stream);
  stream.destroy();
  await within(2_000, 'the stream', ending);
  expect(events).toMatchObject({ finish: 0, close: 1, error: 0 });
  await expectNothingLeft(behind, behind.sluiceThrough);
});

test('while it cannot be counted nothing is sent, and the stream goes on afterwards', async () => {
  const behind = await behindProxy();
  const { proxy, through } = behind;
  proxy.judge = ({ data }) => (data.includes('sluice:count_ready') ? 'cut' : 'pass');
  const { waits, events, loaded, stream } = feed(through, 500, { maxBacklog: 1_000, retries: 0 });
  await eventually('three failures', () => waits.length >= 3);
  expect(await behind.count()).toBe(0);
  expect(waits[0]).toEqual({ ready: 1_001, delayMs: 250 });
  proxy.judge = () => 'pass';
  await within(15_000, 'the load', loaded);
  expect(events).toMatchObject({ finish: 1, error: 0 });
  expect(stream.stats).toMatchObject({ committed: 500, retries: 0 });
  expect(await behind.delivered()).toEqual(numbers(500));
});

test('several streams pass the limit by no more than each of them may send between two looks', async () => {
  const s = await scenario();
  const producers = [await s.producer(), await s.producer(), await s.producer()];
  const feeds = producers.map((producer) => feed(producer, 1_000, { maxBacklog: 100 }));
  await eventually('all of them to wait', () => feeds.every(({ waits }) => waits.length >= 2));
  const count = await s.count();
  expect(count).toBeGreaterThanOrEqual(90);
  expect(count).toBeLessThanOrEqual(300);
  await take(s, count);
  await eventually('all of them to go on', async () => (await s.count()) >= 90);
  for (const { stream } of feeds) await endOf(stream);
  expect(await s.count()).toBeLessThanOrEqual(300);
});

test('room in the queue does not wake a producer that is suspended', async () => {
  const s = await scenario();
  const { sluice, count } = await spied(s);
  const producer = await sluice.producer('work');
  const { stream, waits, events, loaded } = feed(producer, 30, { maxBacklog: 10 });
  await eventually('the stream to wait', () => waits.length > 0);
  await producer.suspend();
  await take(s, 10);
  const looks = count('count_ready');
  await eventually('a look that finds room', () => count('count_ready') > looks);
  const seen = waits.length;
  // Round trips enough for a batch.
  for (let trips = 0; trips < 100; trips++) expect(await s.count()).toBe(0);
  expect(waits.length).toBe(seen);
  await producer.resume();
  await eventually('the stream to go on', async () => (await s.count()) === 10);
  await take(s, 10);
  await eventually('the rest', async () => (await s.count()) === 10);
  await within(10_000, 'the load', loaded);
  expect(stream.stats.committed).toBe(30);
  expect(events).toMatchObject({ finish: 1, error: 0 });
});

test.each([0, -1, 1.5, NaN, Infinity, '10', null, 1_000_000_001])(
  'maxBacklog %s is refused',
  async (maxBacklog) => {
    const producer = await (await scenario()).producer();
    expect(() => producer.writable({ maxBacklog: maxBacklog as number })).toThrow(
      expect.objectContaining({ code: 'INVALID_OPTION', field: 'maxBacklog' }),
    );
  },
);
