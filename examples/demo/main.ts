// npm run demo: the main job on real data. See the README.
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { connect, rateLimit, type Sluice } from 'pg-sluice';
import { startEmbedded } from 'pg-sluice/embedded';
import { Checksum } from './checksum.js';
import { Progress } from './progress.js';
import type { ConsumerOrder, ConsumerReport } from './protocol.js';
import { flights, FLIGHTS } from './source.js';

const SCHEMA = 'sluice_demo';

const { values } = parseArgs({
  options: {
    rate: { type: 'string', default: '50000' },
    rows: { type: 'string', default: String(FLIGHTS) },
  },
});
const perSecond = Number(values.rate);
const rows = Number(values.rows);
if (!(perSecond > 0) || !(Number.isInteger(rows) && rows >= 1 && rows <= FLIGHTS)) {
  console.error(`usage: npm run demo -- [--rate ROWS_PER_SECOND] [--rows 1..${FLIGHTS}]`);
  process.exit(2);
}

const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => stop.abort(new Error(`stopped by ${signal}`)));
}

try {
  process.exitCode = (await demo(stop.signal)) ? 0 : 1;
} catch (error) {
  if (!stop.signal.aborted) throw error;
  console.log(`\n${(stop.signal.reason as Error).message}; everything is shut down`);
  process.exitCode = 130;
}

async function demo(signal: AbortSignal): Promise<boolean> {
  const server = process.env.DATABASE_URL ? undefined : await startEmbedded();
  try {
    signal.throwIfAborted();
    const url = server?.url ?? process.env.DATABASE_URL ?? '';
    console.log(server ? `started an embedded PostgreSQL on port ${server.port}` : 'using DATABASE_URL');
    await using sluice = await connect({ dsn: url, schema: SCHEMA });
    await sluice.admin.install();
    const queue = await sluice.admin.createQueue(`flights-${new Date().toISOString()}`);
    console.log(
      `queue "${queue.name}" in schema "${SCHEMA}"; ${rows.toLocaleString('en')} flights at ${values.rate}/s\n`,
    );
    return await run(sluice, url, queue.name, signal);
  } finally {
    await server?.stop();
  }
}

/** Streams the flights in while a second process takes them out; returns whether both saw the same. */
async function run(sluice: Sluice, url: string, queue: string, signal: AbortSignal): Promise<boolean> {
  const progress = new Progress();
  const ingested = progress.add('produced', rows);
  const consumed = progress.add('consumed', rows);
  const read = new Checksum();

  const child = fork(fileURLToPath(new URL('./consumer.ts', import.meta.url)), {
    execArgv: process.execArgv,
  });
  const drained = drain(child, (count) => progress.update(consumed, count));
  drained.catch(() => undefined); // seen below, unless the demo ends before
  try {
    tell(child, { type: 'consume', url, schema: SCHEMA, queue });
    const producer = await sluice.producer(queue);
    const stream = producer.writable({ signal });
    stream.on('batch', () => progress.update(ingested, stream.stats.committed));
    await pipeline(
      flights(rows),
      new Transform({
        objectMode: true,
        transform(flight: object, _encoding, done) {
          read.add(flight);
          done(null, flight);
        },
      }),
      rateLimit({ perSecond, burst: 1_000 }),
      stream,
    );
    tell(child, { type: 'total', count: read.count });
    const got = await Promise.race([drained, aborted(signal)]);
    progress.stop();

    const { committed, batches, retries } = stream.stats;
    const same = read.count === committed && committed === got.count && read.digest() === got.digest;
    console.log(`
read       ${read.count} records   sha256 ${read.digest()}
committed  ${committed} rows      in ${batches} batches, ${retries} retries
consumed   ${got.count} messages  sha256 ${got.digest}
${same ? 'All equal, in source order: nothing lost, nothing doubled.' : 'THEY DIFFER.'}`);
    return same;
  } finally {
    progress.stop();
    await end(child);
  }
}

function tell(child: ChildProcess, order: ConsumerOrder): void {
  child.send(order);
}

async function drain(
  child: ChildProcess,
  onProgress: (count: number) => void,
): Promise<{ count: number; digest: string }> {
  return new Promise((resolve, reject) => {
    child.on('message', (report: ConsumerReport) => {
      if (report.type === 'consumed') onProgress(report.count);
      if (report.type === 'done') resolve(report);
    });
    child.on('exit', (code) => reject(new Error(`the consumer ended early with code ${code}`)));
  });
}

async function aborted(signal: AbortSignal): Promise<never> {
  if (!signal.aborted) await once(signal, 'abort');
  throw signal.reason;
}

/** The consumer leaves the queue in good order when the connection to it closes. */
async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  if (child.connected) child.disconnect();
  await gone;
}
