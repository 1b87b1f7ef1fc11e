import { expect, test } from 'vitest';
import { scenario } from './support/scenario.js';

const { rawJSON } = JSON as unknown as { rawJSON?: (text: string) => object };
if (!rawJSON)
  console.log('skipped: numbers of any length on writing need JSON.rawJSON, which came with Node 21');

test.skipIf(!rawJSON).each(['enqueue', 'batchEnqueue', 'ingest'] as const)(
  'a number of any length that JSON.rawJSON holds is written by %s as it is, and can be read as it is',
  async (way) => {
    const s = await scenario();
    // Rules that look into the payload see it too.
    const producer = await s.producer({ maxStringBytes: 10, requiredKeys: ['n'] });
    const payload = { n: rawJSON!('9007199254740993') };
    if (way === 'enqueue') await producer.enqueue(payload);
    else if (way === 'batchEnqueue') await producer.batchEnqueue([payload]);
    else await producer.ingest([payload]);
    const consumer = await s.consumer({ parsePayload: (json) => json });
    expect((await consumer.dequeue())?.payload).toBe('{"n": 9007199254740993}');
  },
);
