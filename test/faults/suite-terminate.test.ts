import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setImmediate as tick, setInterval as every } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { connect } from '../../src/index.js';
import { expectNothingLeft } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { deliveredOf, expectFlawless, FULL, report } from '../support/total-queue.js';

const BASELINE_MS = FULL ? 5_000 : 1_000;
const KILLING_MS = FULL ? 60_000 : 5_000;
const EVERY_MS = 200;
const BACK_WITHIN_MS = 5_000;
/** Throughput is looked at in windows of that length. */
const WINDOW_MS = 1_000;

test(
  'case 7: all our backends are ended five times a second: nothing is lost or doubled, and afterwards it is as fast as before',
  async () => {
    const s = await scenario();
    const url = new URL(s.url);
    const name = `ended-${s.schema}`;
    url.searchParams.set('application_name', name);
    const sluice = await connect({ dsn: url.href, schema: s.schema });
    onTestFinished(() => within(20_000, 'closing', sluice.close()).catch(() => undefined));
    const producer = await sluice.producer('work');
    // A busy machine may not get a batch through between two kills, time and again.
    const stream = producer.writable({ batchSize: 1_000, retries: 1_000, retryMaxMs: 200 });
    const commits: { at: number; rows: number }[] = [];
    stream.on('batch', ({ rows }) => commits.push({ at: performance.now(), rows }));
    /** Rows a second in the window that ends at that moment. */
    const rateAt = (end: number, ms = WINDOW_MS) =>
      commits.reduce((sum, { at, rows }) => (at > end - ms && at <= end ? sum + rows : sum), 0) /
      (ms / 1_000);

    let over = false;
    let given = 0;
    async function* source() {
      for (; !over; given++) {
        yield { n: given, text: 'of some length, as a small message is' };
        // Or no timer would get a turn while the stream takes all.
        if (given % 1_000 === 0) await tick();
      }
    }
    const loaded = pipeline(Readable.from(source()), stream);
    loaded.catch(() => undefined);
    await eventually('the first commit', () => commits.length > 0);
    const began = performance.now();
    await eventually('the baseline', () => performance.now() > began + BASELINE_MS, BASELINE_MS + 5_000);
    const baseline = rateAt(performance.now(), BASELINE_MS);

    let killed = 0;
    const killing = performance.now();
    const ticks = every(EVERY_MS);
    while (!stream.destroyed && performance.now() < killing + KILLING_MS) {
      await ticks.next();
      const { rowCount } = await s.pool.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1`,
        [name],
      );
      killed += rowCount ?? 0;
    }
    await ticks.return?.();
    const end = performance.now();
    const during = rateAt(end, end - killing);
    const next = await eventually('the next commit', () => commits.find(({ at }) => at > end));
    let after = 0;
    const isBack = () => {
      after = rateAt(performance.now());
      return performance.now() > end + WINDOW_MS && after >= 0.8 * baseline;
    };
    const backAfterMs = await eventually(
      'the same throughput',
      () => (isBack() ? Math.round(performance.now() - end) : undefined),
      BACK_WITHIN_MS,
    ).catch(() => undefined);
    over = true;
    await within(30_000, 'the load', loaded);

    const { committed, retries, resolved } = stream.stats;
    report('case 7', {
      ...{ rows: committed, killed, retries, resolved },
      nextCommitMs: Math.round(next.at - end),
      rowsPerSecond: { before: Math.round(baseline), during: Math.round(during), after: Math.round(after) },
      backAfterMs,
    });
    expect(killed).toBeGreaterThan(KILLING_MS / EVERY_MS / 2);
    expect(retries).toBeGreaterThan(0);
    expect(committed).toBe(given);
    expectFlawless({ attempted: given, acknowledged: committed, delivered: await deliveredOf(s) });
    await expectNothingLeft(s, sluice);
    if (FULL) expect(backAfterMs, 'back to 80 % of the throughput').toBeDefined();
  },
  KILLING_MS + 120_000,
);
