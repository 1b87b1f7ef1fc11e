import { expect, test } from 'vitest';
import { numbered, scenario } from './support/scenario.js';

test('what a producer takes in order, a consumer gets in order', async () => {
  const { producer, consumer } = await scenario();
  const summary = await (await producer()).ingest(numbered(2_500), { batchSize: 1_000 });
  expect(summary.committed).toBe(2_500);
  const got: number[] = [];
  for await (const message of (await consumer()).messages<{ n: number }>()) {
    got.push(message.payload.n);
    await message.archive();
    if (got.length === 2_500) break;
  }
  expect(got).toEqual([...numbered(2_500)].map(({ n }) => n));
});
