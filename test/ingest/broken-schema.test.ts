import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { StandardSchemaV1 } from '@standard-schema/spec';
import { expect, onTestFinished, test } from 'vitest';
import { scenario } from '../support/scenario.js';
import { closed, counted, expectNothingLeft, numbers } from './support.js';

interface Item {
  n: number;
}

const DOWN = new Error('the directory of customers is down');
const WAYS = ['throws', 'rejects'] as const;

/** Refuses 7, and breaks at an item: its look-up fails from then on. */
function schemaThatBreaksAt(broken: number, how: (typeof WAYS)[number]): StandardSchemaV1<Item, Item> {
  const validate = (value: unknown) => {
    const { n } = value as Item;
    if (n >= broken && how === 'throws') throw DOWN;
    if (n >= broken) return Promise.reject(DOWN);
    return n === 7 ? { issues: [{ message: 'no' }] } : { value: { n } };
  };
  return { '~standard': { version: 1, vendor: 'test', validate } };
}

const failure = (work: Promise<unknown>): Promise<unknown> => work.catch((error: unknown) => error);

test.each(WAYS)('a schema that %s ends the stream: items are rejected by verdicts only', async (how) => {
  const test = await scenario();
  await test.sluice.admin.createQueue('bad');
  const producer = await test.sluice.producer('work', { schema: schemaThatBreaksAt(25, how) });
  const rejected: number[] = [];
  const error = await failure(
    producer.ingest(
      numbers(1_000).map((n) => ({ n })),
      {
        batchSize: 10,
        onReject: ({ index }) => void rejected.push(index),
        rejectTo: 'bad',
      },
    ),
  );
  expect(error).toMatchObject({
    code: 'VALIDATOR_FAILED',
    index: 25,
    cause: DOWN,
    progress: { committed: 19, position: '20' },
  });
  expect(rejected).toEqual([7]);
  // The reject has no `n`.
  const delivered = (await test.delivered()).filter(Number.isInteger);
  expect(delivered).toEqual(numbers(20).filter((n) => n !== 7));
  await expectNothingLeft(test);
});

test.each(WAYS)('a schema that %s in a stream that rejects nothing: the same error', async (how) => {
  const test = await scenario();
  const producer = await test.sluice.producer('work', { schema: schemaThatBreaksAt(5, how) });
  const stream = producer.writable({ batchSize: 2 });
  const events = counted(stream);
  const loaded = failure(pipeline(Readable.from(numbers(7).map((n) => ({ n }))), stream));
  await closed(stream);
  expect(await loaded).toBe(events.reason);
  expect(events.reason).toMatchObject({ code: 'VALIDATOR_FAILED', index: 5, progress: { committed: 4 } });
  await expectNothingLeft(test);
});

test.each(WAYS)('enqueue and batchEnqueue say that the schema %s, and send nothing', async (how) => {
  const test = await scenario();
  const producer = await test.sluice.producer('work', { schema: schemaThatBreaksAt(2, how) });
  expect(await failure(producer.enqueue({ n: 2 }))).toMatchObject({
    code: 'VALIDATOR_FAILED',
    index: undefined,
    cause: DOWN,
  });
  const batch = producer.batchEnqueue([{ n: 0 }, { n: 1 }, { n: 2 }]);
  expect(await failure(batch)).toMatchObject({ code: 'VALIDATOR_FAILED', index: 2, cause: DOWN });
  expect(await test.count()).toBe(0);
});

test('a batch whose schema throws for one payload and rejects for another leaves no rejection unhandled', async () => {
  const test = await scenario();
  const unhandled: unknown[] = [];
  const note = (reason: unknown) => unhandled.push(reason);
  process.on('unhandledRejection', note);
  onTestFinished(() => void process.off('unhandledRejection', note));
  const validate = (value: unknown) => {
    if ((value as Item).n === 1) throw DOWN;
    return Promise.reject(new Error('later'));
  };
  const schema: StandardSchemaV1<Item, Item> = { '~standard': { version: 1, vendor: 'test', validate } };
  const producer = await test.sluice.producer('work', { schema });
  expect(await failure(producer.batchEnqueue([{ n: 0 }, { n: 1 }]))).toMatchObject({
    code: 'VALIDATOR_FAILED',
  });
  await test.count(); // a round trip later
  expect(unhandled).toEqual([]);
});
