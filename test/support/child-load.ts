/* Loads a queue and tells how much memory that took: `{ baselineBytes, peakBytes, committed }`. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { connect } from '../../src/index.js';

const [, , url, schema, ...numbers] = process.argv as [string, string, string, string, ...string[]];
const [rows, textBytes, batchBytes, warmUpRows] = numbers.map(Number) as [number, number, number, number];
const SAMPLE_MS = 100;

// As with --expose-gc, which the process that starts this one need not know of.
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

function* items(count: number, from: number) {
  // Each text is one of its own, as it would be from a source: nothing is shared.
  for (let n = from; n < from + count; n++)
    yield { n, text: Buffer.alloc(textBytes, `${n} some text `).toString('latin1') };
}

const sluice = await connect({ dsn: url, schema });
const producer = await sluice.producer('work');
const options = { batchBytes, batchSize: 1_000_000, concurrency: 2, lingerMs: 60_000 };
await producer.ingest(items(warmUpRows, 0), options);
collect();
const baselineBytes = process.memoryUsage.rss();
let peakBytes = 0;
const sampler = setInterval(() => {
  collect();
  peakBytes = Math.max(peakBytes, process.memoryUsage.rss());
}, SAMPLE_MS);
const { committed } = await producer.ingest(items(rows - warmUpRows, warmUpRows), options);
clearInterval(sampler);
await sluice.close();
process.send?.({ baselineBytes, peakBytes, committed: committed + warmUpRows });
process.disconnect();
