/* Consumes large messages in a small heap and tells how much memory that took: `{ baselineBytes, peakBytes, handled }`. */
import { connect } from '../../src/index.js';

const [, , url, schema, way, count] = process.argv as [string, string, string, string, string, string];
const SAMPLE_MS = 20;

const sluice = await connect({ dsn: url, schema });
const consumer = await sluice.consumer('work');
const baselineBytes = process.memoryUsage.rss();
let peakBytes = 0;
const sampler = setInterval(() => {
  peakBytes = Math.max(peakBytes, process.memoryUsage.rss());
}, SAMPLE_MS);
let handled = 0;
const stop = new AbortController();
/** Long enough for a prefetch to come behind it. */
const handle = async () => {
  await new Promise((resolve) => setTimeout(resolve, SAMPLE_MS));
  if (++handled === Number(count)) stop.abort();
};
if (way === 'run') await consumer.run(handle, { signal: stop.signal, concurrency: 100 });
else {
  for await (const message of consumer.messages({ prefetch: 1_000 })) {
    await message.archive();
    await handle();
    if (stop.signal.aborted) break;
  }
}
clearInterval(sampler);
await sluice.close();
process.send?.({ baselineBytes, peakBytes, handled });
process.disconnect();
