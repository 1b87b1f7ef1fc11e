import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { connect, DatabaseError, type Reject, TimeoutError } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import {
  bad,
  expectAddsUp,
  good,
  inOrderOfReport,
  mixed,
  refuseBad,
  SERVER_FAULTS,
  without,
} from './rejects-support.js';
import { closed, counted, expectNothingLeft, numbers } from './support.js';

describe.each([
  ['copy', 1],
  ['copy', 2],
  ['insert', 2],
  ['copy', 4],
] as const)('%s, %i in flight', (method, concurrency) => {
  test.each(SERVER_FAULTS)(
    'each bad item is reported once, batch by batch, and the others are all in and in order; the server has %s',
    async (fault) => {
      const test = await scenario();
      await refuseBad(test, fault);
      const items = new Map<number, unknown>();
      for (let n = 7; n < 1_000; n += 53) items.set(n, { n, value: BigInt(n) });
      for (let n = 20; n < 1_000; n += 71) items.set(n, bad(n));
      for (const n of [300, 301, 302, 399]) items.set(n, bad(n));
      const rejects: Reject[] = [];
      const summary = await (
        await test.producer()
      ).ingest(mixed(1_000, items), {
        ...{ method, concurrency, batchSize: 50 },
        onReject: (reject) => void rejects.push(reject),
      });
      expect(rejects.map(({ index }) => index).sort((a, b) => a - b)).toEqual(
        [...items.keys()].sort((a, b) => a - b),
      );
      expect(rejects).toEqual(inOrderOfReport(rejects, 50));
      for (const { index, code, reason, item, text } of rejects) {
        expect(code).toBe('PAYLOAD_INVALID');
        expect(reason).not.toContain('secret');
        if (text === undefined) expect(item).toBe(items.get(index));
        else expect(text).toBe(JSON.stringify(items.get(index)));
      }
      expect(await test.delivered()).toEqual(without(1_000, items.keys()));
      expect(summary).toMatchObject({
        ...{ accepted: 1_000, committed: 1_000 - items.size, rejected: items.size },
        ...{ batches: 20, position: '1000', retries: 0 },
      });
      expectAddsUp(summary);
      await expectNothingLeft(test);
    },
  );
});

/** A producer whose transactions can be counted. */
async function watchedProducer(test: Scenario) {
  const pool = new pg.Pool({ connectionString: test.url, max: 6, application_name: test.schema });
  const sluice = await connect({ pool, schema: test.schema });
  onTestFinished(async () => {
    await sluice.close();
    await pool.end();
  });
  const openTransactions = async () => {
    const { rows } = await test.pool.query<{ count: number }>(
      `select count(*)::int from pg_stat_activity
       where application_name = $1 and xact_start is not null and state <> 'active'`,
      [test.schema],
    );
    return rows[0]!.count;
  };
  return { producer: await sluice.producer('work'), pool, openTransactions };
}

test('no transaction of the stream is open while a reject is reported, and all batches before are in', async () => {
  const test = await scenario();
  await refuseBad(test);
  const { producer, pool, openTransactions } = await watchedProducer(test);
  const items = new Map([5, 12, 13, 25, 44].map((n) => [n, n % 2 ? { value: 1n } : bad(n)] as const));
  let reported = 0;
  await producer.ingest(mixed(50, items), {
    ...{ batchSize: 10, concurrency: 4 },
    onReject: async ({ index }) => {
      expect(await openTransactions()).toBe(0);
      const before = Math.floor(index / 10) * 10;
      expect(await test.delivered()).toEqual(without(before, items.keys()));
      reported++;
    },
  });
  expect(reported).toBe(5);
  expect(await test.count()).toBe(45);
  // The probe sees one when there is one.
  const client = await pool.connect();
  await client.query('begin');
  expect(await openTransactions()).toBe(1);
  await client.query('rollback');
  client.release();
});

test('a slow callback is awaited, and the source waits for it', async () => {
  const test = await scenario();
  const slow = deferred();
  let taken = 0;
  const calls: number[] = [];
  const source = function* () {
    for (; taken < 1_000; taken++) yield taken < 2 ? { value: 1n } : good(taken);
  };
  const stream = (await test.producer()).writable({
    ...{ batchSize: 10, concurrency: 2, lingerMs: 60_000 },
    onReject: ({ index }) => {
      calls.push(index);
      return slow.promise;
    },
  });
  const loaded = pipeline(Readable.from(source()), stream);
  await eventually('two batches in flight and one that is full', () => stream.stats.accepted === 30);
  await test.pool.query('select pg_sleep(0.1)');
  expect(calls).toEqual([0]);
  expect(stream.stats.accepted).toBe(30);
  expect(taken).toBeLessThanOrEqual(30 + stream.writableHighWaterMark + 2);
  expect(await test.count()).toBe(0);
  slow.resolve();
  await within(20_000, 'the load', loaded);
  expect(calls).toEqual([0, 1]);
  expect(await test.count()).toBe(998);
});

function raise(error: Error): never {
  throw error;
}

const THROWS: [string, () => unknown, unknown][] = [
  ['throws', () => raise(new RangeError('my error')), { message: 'my error' }],
  ['rejects', () => Promise.reject(new Error('my error')), { message: 'my error' }],
  // They would have a batch sent again, or taken apart, if the server had given them.
  ['rejects with a passing error', () => Promise.reject(new TimeoutError('it', 1)), { code: 'TIMEOUT' }],
  ['rejects with a refusal', () => Promise.reject(new DatabaseError('no', '23505')), { sqlState: '23505' }],
  // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors
  ['rejects with no error', () => Promise.reject('nothing'), { cause: 'nothing' }],
  // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors
  ['rejects with undefined', () => Promise.reject(undefined), { code: 'INGEST_FAILED' }],
];

test.each(THROWS)(
  'a callback that %s ends the stream; its batch is out whole, those before are in',
  async (_how, fail, reason) => {
    const test = await scenario();
    const calls: number[] = [];
    const stream = (await test.producer()).writable({
      ...{ batchSize: 10, concurrency: 4, retryBaseMs: 1 },
      onReject: ({ index }) => {
        calls.push(index);
        return index === 26 ? (fail() as Promise<void>) : undefined;
      },
    });
    const events = counted(stream);
    const items = new Map([3, 25, 26, 27, 31].map((n) => [n, { value: 1n }] as const));
    await pipeline(Readable.from(mixed(200, items)), stream).catch(() => undefined);
    await closed(stream);
    expect(events).toMatchObject({ finish: 0, close: 1, error: 1, reason });
    expect(events.reason).toBeInstanceOf(Error);
    expect(calls).toEqual([3, 25, 26]);
    expect(await test.delivered()).toEqual(without(20, [3]));
    expect(stream.stats).toMatchObject({ committed: 19, rejected: 1, position: '20', retries: 0 });
    await expectNothingLeft(test);
  },
);

test('destroy does not wait for a callback, and no other one is called', async () => {
  const test = await scenario();
  const slow = deferred();
  const calls: number[] = [];
  const stream = (await test.producer()).writable({
    ...{ batchSize: 10 },
    onReject: ({ index }) => {
      calls.push(index);
      return slow.promise;
    },
  });
  for (const n of numbers(30)) stream.write({ n, value: n % 2 ? 1n : 1 });
  await eventually('the first one', () => calls.length === 1);
  stream.destroy();
  await closed(stream);
  slow.resolve();
  await test.pool.query('select pg_sleep(0.05)');
  expect(calls).toEqual([1]);
  expect(await test.count()).toBe(0);
  await expectNothingLeft(test);
});
