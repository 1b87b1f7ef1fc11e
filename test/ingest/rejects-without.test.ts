import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import { DatabaseError, PayloadInvalidError } from '../../src/index.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { bad, good, mixed, refuseBad, SERVER_FAULTS, uniqueTexts } from './rejects-support.js';
import { expectNothingLeft, numbers } from './support.js';

const STATES = {
  'a CHECK constraint': '23514',
  'a trigger': 'P0001',
  'a trigger that leaves rows out': 'SLR01',
  'a deferred constraint trigger': 'P0001',
  'the type of an indexed expression': '22003',
};

async function failure(test: Scenario, source: Iterable<unknown>, options: object): Promise<unknown> {
  const producer = await test.producer();
  return producer.ingest(source, { batchSize: 10, ...options }).catch((error: unknown) => error);
}

function expectRefused(error: unknown, index: number, sqlState: string): void {
  expect(error).toBeInstanceOf(PayloadInvalidError);
  const { cause, reason } = error as PayloadInvalidError;
  expect(cause).toBeInstanceOf(DatabaseError);
  expect(cause).toMatchObject({ sqlState });
  expect(error).toMatchObject({ code: 'PAYLOAD_INVALID', index });
  expect(reason).toContain(sqlState);
  expect(inspect(error, { depth: 9, showHidden: true })).not.toContain('secret');
}

describe.each(['copy', 'insert'] as const)('%s', (method) => {
  test.each(SERVER_FAULTS)(
    'a row that %s refuses ends the stream at its index; its batch is out whole, those before are in',
    async (fault) => {
      const test = await scenario();
      await refuseBad(test, fault);
      const source = mixed(100, new Map([57, 59, 80].map((n) => [n, bad(n)] as const)));
      const error = await failure(test, source, { method, concurrency: 4 });
      expectRefused(error, 57, STATES[fault]);
      expect(error).toMatchObject({ progress: { committed: 50, position: '50' } });
      expect(await test.delivered()).toEqual(numbers(50));
      await expectNothingLeft(test);
    },
  );

  test.each([
    ['inside its batch', 52, 57],
    ['of an earlier batch', 7, 57],
  ])('a row that a unique index refuses for one %s ends the stream', async (_which, first, second) => {
    const test = await scenario();
    await uniqueTexts(test);
    const source = mixed(100, new Map([first, second].map((n) => [n, { n, text: 'secret' }] as const)));
    const error = await failure(test, source, { method });
    expectRefused(error, second, '23505');
    expect(error).toMatchObject({
      cause: { constraint: expect.any(String) as string },
      progress: { committed: 50, position: '50' },
    });
    expect(await test.delivered()).toEqual(numbers(50));
    await expectNothingLeft(test);
  });
});

test.each([1, 2, 4])('an item that is refused here ends the stream, %i in flight', async (concurrency) => {
  const test = await scenario();
  const source = mixed(1_000, new Map([[557, { secret: 1n }]]));
  const error = await failure(test, source, { concurrency });
  expect(error).toMatchObject({
    code: 'PAYLOAD_INVALID',
    index: 557,
    reason:
      'a bigint has no JSON form: give it as a string, as JSON.rawJSON(String(value)) where there is that, or give BigInt.prototype a toJSON()',
    progress: { committed: 550, position: '550' },
  });
  expect(inspect(error, { depth: 9, showHidden: true })).not.toContain('secret');
  expect(await test.delivered()).toEqual(numbers(550));
  await expectNothingLeft(test);
});

test('a number that is out of range is not shown', async () => {
  const test = await scenario();
  await test.pool.query(`create index on ${test.schema}.pgqrs_messages (((payload->>'n')::int))`);
  const error = await failure(test, [good(0), { n: 98_765_432_109 }], {});
  expectRefused(error, 1, '22003');
  expect(inspect(error, { depth: 9, showHidden: true })).not.toContain('98765');
});

test('what a constraint says of the whole batch only, and of no row, ends the stream as the server said it', async () => {
  const test = await scenario();
  const { pool, schema } = test;
  await pool.query(`
    create function ${schema}.few() returns trigger language plpgsql as $$
    begin
      if (select count(*) from fresh) = 10 then raise exception 'not ten at once'; end if;
      return null;
    end $$;
    create trigger few after insert on ${schema}.pgqrs_messages referencing new table as fresh
    for each statement execute function ${schema}.few()`);
  const error = await failure(test, mixed(9, new Map()), {});
  expect(error).toMatchObject({ accepted: 9, committed: 9 });
  // Ten in one statement are refused, found bad in no half, and the batch goes on to fail: no endless loop.
  const onReject = () => expect.unreachable();
  const worse = await failure(test, mixed(20, new Map()), { onReject });
  expect(worse).toMatchObject({ code: 'DATABASE_ERROR', sqlState: 'P0001', progress: { committed: 0 } });
  await expectNothingLeft(test);
});
