import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import { behindProxy, expectNothingLeft, numbers } from '../ingest/support.js';
import { within } from '../support/eventually.js';
import { asksToCommit, type Bytes, type Fate, saysCommitted, sendsRows } from '../support/proxy.js';
import { numbered } from '../support/scenario.js';

/** When connections are cut, in turn. */
const MOMENTS = ['mid-COPY', 'before COMMIT', 'during COMMIT', 'after COMMIT', 'after its answer'] as const;
type Moment = (typeof MOMENTS)[number];

const ROWS = 200_000;

test('with a connection cut at every third batch, before, during and after its COMMIT, each row arrives once and in order', async () => {
  const behind = await behindProxy();
  const { proxy, through, delivered, sluiceThrough } = behind;
  const cuts: Record<Moment, number> = {
    'mid-COPY': 0,
    'before COMMIT': 0,
    'during COMMIT': 0,
    'after COMMIT': 0,
    'after its answer': 0,
  };
  let batches = 0;
  const cut = (moment: Moment, fate: Fate = 'cut'): Fate => {
    cuts[moment]++;
    return fate;
  };
  proxy.judge = (bytes: Bytes) => {
    const { notes } = bytes.link;
    if (sendsRows(bytes)) {
      // Every moment in turn, each after two batches without harm.
      const moment = ++batches % 3 === 0 ? MOMENTS[(batches / 3) % MOMENTS.length] : undefined;
      notes.clear();
      if (moment === 'mid-COPY') return cut(moment);
      if (moment) notes.add(moment);
    } else if (asksToCommit(bytes)) {
      if (notes.has('before COMMIT')) return cut('before COMMIT');
      if (notes.has('during COMMIT')) return cut('during COMMIT', 'passThenCut');
    } else if (saysCommitted(bytes)) {
      // The server has committed, and nobody here will know.
      if (notes.has('after COMMIT')) return cut('after COMMIT');
      if (notes.has('after its answer')) return cut('after its answer', 'passThenCut');
    }
    return 'pass';
  };
  const stream = through.writable({ batchSize: 500, retryBaseMs: 1, retryMaxMs: 20, concurrency: 2 });
  let committed = 0;
  stream.on('batch', ({ rows }) => (committed += rows));
  await within(50_000, 'the load', pipeline(Readable.from(numbered(ROWS)), stream));
  proxy.judge = () => 'pass';

  const total = Object.values(cuts).reduce((sum, n) => sum + n);
  expect(total).toBeGreaterThanOrEqual(100);
  for (const moment of MOMENTS) expect(cuts[moment], moment).toBeGreaterThanOrEqual(10);
  // No row is there twice, so each batch of `after COMMIT` was found in the ledger when it was about to be sent again.
  expect(stream.stats.retries).toBeGreaterThanOrEqual(
    cuts['mid-COPY'] + cuts['before COMMIT'] + cuts['during COMMIT'] + cuts['after COMMIT'],
  );
  expect(await delivered()).toEqual(numbers(ROWS));
  expect(stream.stats).toMatchObject({ accepted: ROWS, committed: ROWS, batches: ROWS / 500 });
  expect(committed).toBe(ROWS);
  await expectNothingLeft(behind, sluiceThrough);
});
