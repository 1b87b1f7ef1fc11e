import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, onTestFinished, test } from 'vitest';
import { startEmbedded } from '../../src/embedded/index.js';
import { connect } from '../../src/index.js';
import { numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';

const ROWS = 100_000;

test('a server that crashes twice in the middle of a load and recovers has each row once and in order', async () => {
  const dataDir = join(tmpdir(), `sluice-crash-${randomBytes(6).toString('hex')}`);
  let server = await startEmbedded({ dataDir });
  const { url, port } = server;
  onTestFinished(async () => {
    await server.stop();
    await rm(dataDir, { recursive: true, force: true });
  });
  const sluice = await connect({ dsn: url, schema: 'crash' });
  onTestFinished(() => sluice.close().catch(() => undefined));
  await sluice.admin.install();
  await sluice.admin.createQueue('work');
  const producer = await sluice.producer('work');
  const stream = producer.writable({ batchSize: 500, retries: 100, retryBaseMs: 10, retryMaxMs: 200 });
  const loaded = pipeline(Readable.from(numbered(ROWS)), stream);

  for (const part of [1, 2]) {
    await eventually('a part of the load', () => stream.stats.committed > (part * ROWS) / 4, 30_000);
    // An immediate shutdown: no checkpoint, no goodbye to clients.
    process.kill(server.pid, 'SIGQUIT');
    await within(20_000, 'the crash', server.stop());
    expect(stream.stats.committed).toBeLessThan(ROWS);
    server = await startEmbedded({ dataDir, port });
  }
  await within(30_000, 'the load', loaded);
  expect(stream.stats.retries).toBeGreaterThanOrEqual(2);
  const { rows } = await sluice.admin.pool.query<{ n: number }>(
    `select (payload->>'n')::int as n from crash.pgqrs_messages order by vt, id`,
  );
  expect(rows.map(({ n }) => n)).toEqual(numbers(ROWS));
});
