import { expect, test } from 'vitest';
import { eventually, within } from '../support/eventually.js';
import { numbered, scenario } from '../support/scenario.js';
import { expectNothingLeft, numbers } from './support.js';

/** Gives some items, and then never another one. */
async function* stalling(count: number, seen: () => void): AsyncGenerator<{ n: number }> {
  yield* numbered(count);
  seen();
  await new Promise(() => undefined);
}

const OPTIONS = { batchSize: 10, lingerMs: 1 };

test.each([
  ['an abort', 'ABORT_ERR'],
  ['close() of the producer', 'CLOSED'],
])('%s ends the ingest of a generator that waits for its next item', async (how, code) => {
  const test = await scenario();
  const producer = await test.producer();
  const abort = new AbortController();
  const end = () => (how === 'an abort' ? abort.abort() : void producer.close());
  const loading = producer.ingest(
    stalling(25, () => setImmediate(end)),
    { ...OPTIONS, signal: abort.signal },
  );
  await expect(within(10_000, 'the ingest', loading)).rejects.toMatchObject({ code });
  const delivered = await test.delivered();
  expect(delivered).toEqual(numbers(delivered.length));
  await expectNothingLeft(test);
});

test('a source that hangs is told that it may go, also where it was read over to begin with', async () => {
  const test = await scenario();
  const producer = await test.producer();
  await producer.ingest(numbered(10), { ...OPTIONS, resume: 'load' });
  let returned = 0;
  const source: AsyncIterable<{ n: number }> = {
    [Symbol.asyncIterator]: () => {
      const items = numbered(25);
      return {
        next: () => {
          const next = items.next();
          return next.done ? new Promise(() => undefined) : Promise.resolve(next);
        },
        return: () => {
          returned++;
          return Promise.resolve({ done: true as const, value: undefined });
        },
      };
    },
  };
  const abort = new AbortController();
  const options = { ...OPTIONS, resume: 'load', signal: abort.signal };
  const loading = producer.ingest(source, options);
  await eventually('what is there', async () => (await test.count()) === 25);
  abort.abort();
  await expect(within(10_000, 'the ingest', loading)).rejects.toMatchObject({ code: 'ABORT_ERR' });
  await eventually('the source to be let go', () => returned > 0);
  expect(returned).toBe(1);
});
