import { expect, test } from 'vitest';
import { within } from '../support/eventually.js';
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
