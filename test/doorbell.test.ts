import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { deferred } from '../src/deferred.js';
import { channelOf, Doorbell } from '../src/doorbell.js';
import { DatabaseError } from '../src/errors/index.js';
import { eventually, within } from './support/eventually.js';
import { numbered, type Scenario, scenario } from './support/scenario.js';

/** A database whose notifications the test answers. */
function fakeDb(answer: (nth: number) => Promise<unknown> = () => Promise.resolve()) {
  const sentAt: number[] = [];
  const query = async <Row>(): Promise<Row[]> => {
    sentAt.push(performance.now());
    await answer(sentAt.length);
    return [];
  };
  return { db: { schemaName: 's', urgent: { schema: 's', query } }, sentAt };
}

test('the first ring is sent at once, those that follow it share one at the end of the interval', async () => {
  const { db, sentAt } = fakeDb();
  const bell = new Doorbell(db, '1', 40);
  const rungAt = performance.now();
  for (let i = 0; i < 100; i++) bell.ring();
  await eventually('the first', () => sentAt.length === 1);
  for (let i = 0; i < 100; i++) bell.ring();
  await bell.quiet();
  expect(sentAt).toHaveLength(2);
  expect(sentAt[0]! - rungAt).toBeLessThan(40);
  expect(sentAt[1]! - sentAt[0]!).toBeGreaterThanOrEqual(38);
});

test('a ring that comes soon after a quiet one waits for the interval as well', async () => {
  const { db, sentAt } = fakeDb();
  const bell = new Doorbell(db, '1', 40);
  bell.ring();
  await bell.quiet();
  bell.ring();
  await bell.quiet();
  expect(sentAt[1]! - sentAt[0]!).toBeGreaterThanOrEqual(38);
});

test('a ring while a notification is on its way is followed by one more: what it tells of may be newer', async () => {
  const first = deferred();
  const { db, sentAt } = fakeDb((nth) => (nth === 1 ? first.promise : Promise.resolve()));
  const bell = new Doorbell(db, '1', 1);
  bell.ring();
  await eventually('the first', () => sentAt.length === 1);
  bell.ring();
  bell.ring();
  first.resolve();
  await bell.quiet();
  expect(sentAt).toHaveLength(2);
});

test('no ring is ever lost, whenever it comes', async () => {
  const { db, sentAt } = fakeDb();
  const bell = new Doorbell(db, '1', 0);
  for (let i = 0; i < 500; i++) {
    bell.ring();
    for (let turn = 0; turn < i % 12; turn++) await Promise.resolve();
    const before = sentAt.length;
    bell.ring();
    await within(1_000, 'the ring', bell.quiet());
    expect(sentAt.length).toBeGreaterThan(before);
  }
});

test('a notification that fails is forgotten, and the next one is sent', async () => {
  const { db, sentAt } = fakeDb((nth) =>
    nth === 1 ? Promise.reject(new DatabaseError('no', '53300')) : Promise.resolve(),
  );
  const bell = new Doorbell(db, '1', 1);
  bell.ring();
  await bell.quiet();
  bell.ring();
  await bell.quiet();
  expect(sentAt).toHaveLength(2);
});

/** Counts the notifications of the scenario's queue. */
async function listening({ url, schema, queue }: Scenario) {
  const client = new pg.Client(url);
  await client.connect();
  onTestFinished(() => client.end());
  const heard: string[] = [];
  client.on('notification', ({ payload = '' }) => heard.push(payload));
  await client.query(`listen ${channelOf(schema, queue.id)}`);
  return heard;
}

test('a load rings after its commits, far less often than it commits, and always after the last', async () => {
  const test = await scenario();
  const heard = await listening(test);
  const producer = await test.producer();
  const { batches } = await producer.ingest(numbered(3_000), { batchSize: 10, lingerMs: 60_000 });
  await producer.close();
  expect(batches).toBe(300);
  await eventually('a notification', () => heard.length > 0);
  expect(heard.length).toBeLessThan(300);
});

test('a batch rings although the next ones hold the whole pool', async () => {
  const test = await scenario({ maxConnections: 1 });
  const heard = await listening(test);
  const stream = (await test.producer()).writable({ batchSize: 10 });
  const client = await test.pool.connect();
  stream.once('batch', () => void client.query(`begin; lock ${test.schema}.pgqrs_messages in share mode`));
  for (const item of numbered(30)) stream.write(item);
  await eventually('a notification', () => heard.length > 0);
  await client.query('rollback');
  client.release();
  await new Promise<void>((resolve) => stream.end(resolve));
  expect(await test.count()).toBe(30);
});
