import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import { behindProxy, expectNothingLeft } from '../ingest/support.js';
import { within } from '../support/eventually.js';
import { asksToCommit, type Bytes, type Fate, saysCommitted, sendsRows } from '../support/proxy.js';
import { numbered } from '../support/scenario.js';
import { seeded } from '../support/seeded.js';
import { deliveredOf, expectFlawless, FULL, report, seedOf } from '../support/total-queue.js';

/** When connections are cut. */
const MOMENTS = ['mid-COPY', 'before COMMIT', 'during COMMIT', 'after COMMIT', 'after its answer'] as const;
type Moment = (typeof MOMENTS)[number];

const BATCHES = 400;
const BATCH_SIZE = FULL ? 2_500 : 250;
const ROWS = BATCHES * BATCH_SIZE;
const CUT_SHARE = 0.3;

test(
  'case 1: with 30 % of the batches cut before, during or after COMMIT, each row arrives once and in order',
  async () => {
    const random = seeded(seedOf('case 1'));
    const behind = await behindProxy();
    const { proxy, through, sluiceThrough } = behind;
    const cuts: Record<Moment, number> = {
      'mid-COPY': 0,
      'before COMMIT': 0,
      'during COMMIT': 0,
      'after COMMIT': 0,
      'after its answer': 0,
    };
    let cutAt: number | undefined;
    const recoveriesMs: number[] = [];
    const cut = (moment: Moment, fate: Fate = 'cut'): Fate => {
      cuts[moment]++;
      cutAt ??= performance.now();
      return fate;
    };
    proxy.judge = (bytes: Bytes) => {
      const { notes } = bytes.link;
      if (sendsRows(bytes)) {
        notes.clear();
        const moment = random() < CUT_SHARE ? MOMENTS[Math.floor(random() * MOMENTS.length)] : undefined;
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
    // On a busy machine a batch may take longer to fill than it lingers.
    const lingerMs = 60_000;
    const stream = through.writable({
      batchSize: BATCH_SIZE,
      lingerMs,
      retryBaseMs: 1,
      retryMaxMs: 20,
      concurrency: 2,
    });
    let committed = 0;
    stream.on('batch', ({ rows }) => {
      committed += rows;
      if (cutAt !== undefined) recoveriesMs.push(performance.now() - cutAt);
      cutAt = undefined;
    });
    await within(FULL ? 150_000 : 50_000, 'the load', pipeline(Readable.from(numbered(ROWS)), stream));
    proxy.judge = () => 'pass';

    const longestMs = Math.round(Math.max(...recoveriesMs));
    const { retries, resolved } = stream.stats;
    report('case 1', { rows: ROWS, batches: BATCHES, cuts, retries, resolved, longestMs });
    const total = Object.values(cuts).reduce((sum, n) => sum + n);
    expect(total).toBeGreaterThanOrEqual(0.2 * BATCHES);
    for (const moment of MOMENTS) expect(cuts[moment], moment).toBeGreaterThanOrEqual(5);
    // No row is there twice, so each batch of `after COMMIT` was found in the ledger when it was about to be sent again.
    expect(resolved).toBeGreaterThanOrEqual(cuts['after COMMIT']);
    expect(retries).toBeGreaterThanOrEqual(total - cuts['after its answer']);
    expect(longestMs).toBeLessThan(1_000);
    expectFlawless({ attempted: ROWS, acknowledged: committed, delivered: await deliveredOf(behind) });
    expect(stream.stats).toMatchObject({ accepted: ROWS, committed: ROWS, batches: BATCHES });
    expect(committed).toBe(ROWS);
    await expectNothingLeft(behind, sluiceThrough);
  },
  FULL ? 180_000 : 60_000,
);
