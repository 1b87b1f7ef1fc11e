import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import { numbered, scenario } from '../support/scenario.js';
import { expectNothingLeft, numbers } from './support.js';

const ROWS = 100_000;

test.each([1, 2, 4])(
  '%i batches in flight deliver 100,000 rows in the order of the source',
  async (concurrency) => {
    const test = await scenario();
    const stream = (await test.producer()).writable({ concurrency, batchSize: 2_000 });
    const seqs: number[] = [];
    stream.on('batch', ({ seq }) => seqs.push(seq));
    await pipeline(Readable.from(numbered(ROWS)), stream);
    expect(await test.delivered()).toEqual(numbers(ROWS));
    expect(seqs).toEqual(numbers(seqs.length).map((n) => n + 1));
    await expectNothingLeft(test);
  },
);
