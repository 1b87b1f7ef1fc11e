import { once } from 'node:events';
import { connect } from 'pg-sluice';

const [url = '', schema = '', queue = ''] = process.argv.slice(2);
const stop = new AbortController();
process.once('disconnect', () => stop.abort());

const sluice = await connect({ dsn: url, schema });
const consumer = await sluice.consumer(queue, { pollIntervalMs: 3_600_000 });
const listening = once(consumer, 'listening');
const messages = consumer.messages({ signal: stop.signal });
await listening;
process.send?.({ ready: true });
try {
  for await (const message of messages) {
    process.send?.({ at: performance.timeOrigin + performance.now() });
    await message.archive();
  }
} catch (error) {
  if (!stop.signal.aborted) throw error;
} finally {
  await sluice.close();
}
