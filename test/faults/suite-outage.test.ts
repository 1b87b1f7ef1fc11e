import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { startEmbedded } from '../../src/embedded/index.js';
import { connect } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { deliveredOf, expectFlawless, FULL, report } from '../support/total-queue.js';

const OUTAGE_MS = FULL ? 10_000 : 2_000;
const ROWS = FULL ? 400_000 : 40_000;
const SCHEMA = 'outage';

test(
  'case 8: a server is stopped and started again: the stream goes on within 5 s of its return, and consumers are woken again',
  async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'sluice-outage-'));
    let server = await startEmbedded({ dataDir });
    onTestFinished(async () => {
      await server.stop();
      await rm(dataDir, { recursive: true, force: true });
    });
    const { url, port } = server;
    const sluice = await connect({ dsn: url, schema: SCHEMA });
    onTestFinished(() => within(20_000, 'closing', sluice.close()).catch(() => undefined));
    await sluice.admin.install();
    for (const name of ['work', 'heard']) await sluice.admin.createQueue(name);
    const consumer = await sluice.consumer('heard', { pollIntervalMs: 3_600_000 });
    const heard: unknown[] = [];
    const messages = consumer.messages().on('data', ({ payload }) => heard.push(payload));
    onTestFinished(() => void messages.destroy());
    await within(10_000, 'LISTEN', once(consumer, 'listening'));

    const producer = await sluice.producer('work');
    const stream = producer.writable({ batchSize: 500, retries: 100, retryMaxMs: 2_000 });
    const goOn = deferred();
    async function* source() {
      yield* numbered(ROWS / 2);
      await goOn.promise;
      yield* numbered(ROWS / 2, ROWS / 2);
    }
    const loaded = pipeline(Readable.from(source()), stream);
    loaded.catch(() => undefined);
    await eventually('some of it', () => stream.stats.committed > ROWS / 8, 30_000);

    const deaf = once(consumer, 'deaf');
    await server.stop();
    await within(10_000, 'the loss to be noticed', deaf);
    const stopped = stream.stats.committed;
    expect(stopped).toBeLessThan(ROWS / 2);
    await delay(OUTAGE_MS);
    expect(stream.stats.committed).toBe(stopped);
    const listening = once(consumer, 'listening').then(() => performance.now());
    const batch = once(stream, 'batch').then(() => performance.now());
    server = await startEmbedded({ dataDir, port });
    const back = performance.now();
    const resumedMs = Math.round((await within(20_000, 'the next batch', batch)) - back);
    const listeningMs = Math.round((await within(20_000, 'LISTEN again', listening)) - back);
    goOn.resolve();
    await within(60_000, 'the load', loaded);

    // Nothing is polled: it is heard.
    await (await sluice.producer('heard')).enqueue('after');
    await eventually('the message', () => heard.includes('after'), 5_000);
    await sluice.admin.pool.query(`delete from ${SCHEMA}.pgqrs_messages where payload = '"after"'`);
    const { committed, retries } = stream.stats;
    report('case 8', { outageMs: OUTAGE_MS, rows: committed, retries, resumedMs, listeningMs });
    expect(resumedMs).toBeLessThan(5_000);
    expect(listeningMs).toBeLessThan(10_000);
    expectFlawless({
      attempted: ROWS,
      acknowledged: committed,
      delivered: await deliveredOf({ pool: sluice.admin.pool, schema: SCHEMA }),
    });
  },
  OUTAGE_MS + 120_000,
);
