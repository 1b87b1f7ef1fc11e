import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { startEmbedded } from '../../src/embedded/index.js';
import { connect } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { FULL, report } from '../support/total-queue.js';

const OUTAGE_MS = FULL ? 10_000 : 2_000;
const HANDLERS = 10;
const SCHEMA = 'outage';

test(
  'the server goes away while handlers run: they end, what they did is told when it is back, and nothing comes twice',
  async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'sluice-consume-'));
    let server = await startEmbedded({ dataDir });
    onTestFinished(async () => {
      await server.stop();
      await rm(dataDir, { recursive: true, force: true });
    });
    const { url, port } = server;
    const sluice = await connect({ dsn: url, schema: SCHEMA, pollIntervalMs: 3_600_000 });
    onTestFinished(() => within(20_000, 'closing', sluice.close()).catch(() => undefined));
    await sluice.admin.install();
    await sluice.admin.createQueue('work');
    await (await sluice.producer('work')).ingest(numbered(2 * HANDLERS));

    const consumer = await sluice.consumer('work', { lockSeconds: 60 });
    const listening = once(consumer, 'listening');
    const errors: unknown[] = [];
    consumer.on('claimError', (error) => errors.push(error));
    consumer.on('failed', ({ error }) => errors.push(error));
    const begun: number[] = [];
    const goOn = deferred();
    const stop = new AbortController();
    let aborted = 0;
    const run = consumer.run<{ n: number }>(
      async ({ payload: { n } }, { signal }) => {
        begun.push(n);
        signal.addEventListener('abort', () => aborted++);
        await goOn.promise;
      },
      // Those that wait are claimed before the server goes, and handled while it is away.
      { concurrency: HANDLERS, prefetch: HANDLERS, signal: stop.signal },
    );
    run.catch(() => undefined);
    const held = `select from ${SCHEMA}.pgqrs_messages where consumer_worker_id is not null`;
    await within(10_000, 'LISTEN', listening);
    await eventually('all of them claimed', async () => {
      return (await sluice.admin.pool.query(held)).rowCount === 2 * HANDLERS && begun.length === HANDLERS;
    });

    const deaf = once(consumer, 'deaf');
    await server.stop();
    await within(10_000, 'the loss to be noticed', deaf);
    goOn.resolve();
    await eventually('the handlers of those that waited', () => begun.length === 2 * HANDLERS);
    await delay(OUTAGE_MS);
    const again = once(consumer, 'listening');
    server = await startEmbedded({ dataDir, port });
    const back = performance.now();
    const done = `select from ${SCHEMA}.pgqrs_messages where archived_at is not null`;
    const archived = async (count: number) =>
      (await sluice.admin.pool.query(done).catch(() => undefined))?.rowCount === count;
    await eventually('their acknowledgements', () => archived(2 * HANDLERS), 10_000);
    const acknowledgedMs = Math.round(performance.now() - back);

    // Nothing is polled: it is heard.
    await within(10_000, 'LISTEN again', again);
    await (await sluice.producer('work')).enqueue({ n: 2 * HANDLERS });
    await eventually('the message', () => archived(2 * HANDLERS + 1), 2_000);
    stop.abort();
    const summary = await within(10_000, 'the end', run);
    report('consumers without a server', { outageMs: OUTAGE_MS, acknowledgedMs, errors: errors.length });
    expect(summary).toEqual({ done: 2 * HANDLERS + 1, retried: 0, dead: 0, lost: 0, released: 0 });
    expect(aborted).toBe(0);
    expect([...begun].sort((a, b) => a - b)).toEqual([...numbered(2 * HANDLERS + 1)].map(({ n }) => n));
    const { rows } = await sluice.admin.pool.query(`select distinct read_ct from ${SCHEMA}.pgqrs_messages`);
    expect(rows).toEqual([{ read_ct: 1 }]);
  },
  OUTAGE_MS + 90_000,
);
