import { describe, expect, test } from 'vitest';
import { type MaxRejects, type Reject, TooManyRejectsError } from '../../src/index.js';
import { scenario } from '../support/scenario.js';
import { bad, deliveredTo, mixed, refuseBad, rejectsIn, without } from './rejects-support.js';
import { expectNothingLeft } from './support.js';

/** Bad items at these places, every second one for the server to find. */
const poison = (...places: number[]) =>
  new Map(places.map((n, at) => [n, at % 2 ? bad(n) : { value: 1n }] as const));

async function run(maxRejects: MaxRejects, items: ReadonlyMap<number, unknown>, concurrency: number) {
  const test = await scenario();
  await test.sluice.admin.createQueue('bad');
  await refuseBad(test);
  const rejects: Reject[] = [];
  const producer = await test.producer();
  const outcome: unknown = await producer
    .ingest(mixed(100, items), {
      ...{ batchSize: 10, maxRejects, concurrency, rejectTo: 'bad' },
      onReject: (reject) => void rejects.push(reject),
    })
    .catch((error: unknown) => error);
  await expectNothingLeft(test);
  return { test, outcome, rejects: rejects.map(({ index }) => index) };
}

describe.each([1, 2, 4])('%i in flight', (concurrency) => {
  test('as many rejects as maxRejects are borne', async () => {
    const items = poison(3, 4, 55, 56, 99);
    const { test, outcome } = await run(5, items, concurrency);
    expect(outcome).toMatchObject({ rejected: 5, committed: 95 });
    expect(await deliveredTo(test)).toEqual(without(100, items.keys()));
  });

  test('one more ends the stream: its batch is out whole, all batches before are in', async () => {
    const items = poison(3, 4, 55, 56, 77, 78, 91);
    const { test, outcome, rejects } = await run(5, items, concurrency);
    expect(outcome).toBeInstanceOf(TooManyRejectsError);
    expect(outcome).toMatchObject({
      ...{ rejected: 6, items: 80, limit: 5 },
      ...{ message: '6 of 80 items were rejected; maxRejects allows 5' },
      progress: { committed: 66, position: '70' },
    });
    expect(await deliveredTo(test)).toEqual(without(70, items.keys()));
    expect((await rejectsIn(test)).map(({ index }) => index)).toEqual([3, 4, 55, 56]);
    // 77 was known before the batch was sent; 78 only made it too many.
    expect(rejects).toEqual([3, 4, 55, 56, 77]);
  });

  test('rejects of later batches do not count against earlier ones', async () => {
    // The server finds one in the second batch, when those of the third are known already.
    const items = new Map<number, unknown>([[15, bad(15)], ...poison(20, 22, 24)]);
    for (const n of [20, 22, 24]) items.set(n, { value: 1n });
    const { test, outcome } = await run(3, items, concurrency);
    expect(outcome).toMatchObject({ rejected: 4, items: 30, progress: { committed: 19, position: '20' } });
    expect(await deliveredTo(test)).toEqual(without(20, items.keys()));
  });

  test('a ratio is of all items so far, and looked at once per batch', async () => {
    // 2 of 10, 2 of 20, 6 of 30: a fifth at most. 9 of 40 is more.
    const items = poison(0, 1, 20, 21, 22, 23, 30, 31, 39);
    const { test, outcome } = await run({ ratio: 0.2 }, items, concurrency);
    expect(outcome).toMatchObject({
      ...{ rejected: 9, items: 40, limit: { ratio: 0.2 }, code: 'TOO_MANY_REJECTS' },
      ...{ message: '9 of 40 items were rejected; maxRejects allows a share of 0.2' },
      progress: { position: '30' },
    });
    expect(await deliveredTo(test)).toEqual(without(30, items.keys()));
  });
});

test('none at all, and all of them', async () => {
  const none = await run(0, poison(15), 2);
  expect(none.outcome).toMatchObject({ rejected: 1, items: 20, progress: { committed: 10 } });
  expect(none.rejects).toEqual([]);
  const all = new Map(without(100, []).map((n) => [n, bad(n)] as const));
  const { outcome, rejects } = await run({ ratio: 1 }, all, 2);
  expect(outcome).toMatchObject({ accepted: 100, rejected: 100, committed: 0, position: '100' });
  expect(rejects).toEqual(without(100, []));
});

test('what is no limit, no callback or no queue name is refused', async () => {
  const test = await scenario();
  const producer = await test.producer();
  const onReject = () => undefined;
  const refused: [object, string][] = [
    [{ onReject, maxRejects: -1 }, 'maxRejects must be a whole number of at least 0, got -1'],
    [{ onReject, maxRejects: 1.5 }, 'maxRejects must be a whole number of at least 0, got 1.5'],
    [{ onReject, maxRejects: Number.NaN }, 'maxRejects must be a whole number of at least 0, got NaN'],
    [{ onReject, maxRejects: '7' }, 'maxRejects must be a whole number of at least 0, got "7"'],
    [{ onReject, maxRejects: null }, 'maxRejects must be a whole number of at least 0, got null'],
    [{ onReject, maxRejects: {} }, 'maxRejects.ratio must be a number from 0 to 1, got undefined'],
    [{ onReject, maxRejects: { ratio: 1.1 } }, 'maxRejects.ratio must be a number from 0 to 1, got 1.1'],
    [{ onReject, maxRejects: { ratio: -0.1 } }, 'maxRejects.ratio must be a number from 0 to 1, got -0.1'],
    [{ maxRejects: -1 }, 'maxRejects must be a whole number of at least 0, got -1'],
    [{ onReject: 'log' }, 'onReject must be a function, got "log"'],
    [{ onReject: null }, 'onReject must be a function, got null'],
    [{ rejectTo: '' }, 'rejectTo must be a non-empty string of at most 2000 bytes'],
    [{ rejectTo: 7 }, 'rejectTo must be a non-empty string of at most 2000 bytes'],
  ];
  for (const [options, message] of refused) expect(() => producer.writable(options)).toThrow(message);
  await expectNothingLeft(test);
});
