// The demo's second process: drains the queue as messages arrive and reports what it got.
import { connect } from 'pg-sluice';
import { Checksum } from './checksum.js';
import type { ConsumerOrder, ConsumerReport } from './protocol.js';

const CHUNK = 1_000;

const checksum = new Checksum();
const end = new AbortController();
let total = Infinity;

process.on('SIGINT', () => undefined); // Ctrl-C reaches both processes: the first one decides
process.on('disconnect', () => end.abort());
process.on('message', (order: ConsumerOrder) => {
  if (order.type === 'total') {
    total = order.count;
    endWhenComplete();
  } else {
    void consume(order).then(
      () => {
        if (process.connected) process.disconnect();
      },
      (error: unknown) => {
        console.error('the consumer failed:', error);
        process.exit(1);
      },
    );
  }
});

async function consume({ url, schema, queue }: ConsumerOrder & { type: 'consume' }): Promise<void> {
  const sluice = await connect({ dsn: url, schema });
  try {
    // Polling once an hour: whatever arrives was announced by NOTIFY.
    const consumer = await sluice.consumer(queue, { pollIntervalMs: 3_600_000 });
    const messages = consumer.messages<object>({ prefetch: 2 * CHUNK, signal: end.signal });
    let chunk: string[] = [];
    for await (const message of messages) {
      checksum.add(message.payload);
      chunk.push(message.id);
      // What has arrived is acknowledged together.
      if (chunk.length < CHUNK && messages.readableLength > 0) continue;
      const archived = await consumer.archiveMany(chunk);
      if (archived.includes(false)) throw new Error('a lease was lost: the consumer was too slow');
      chunk = [];
      report({ type: 'consumed', count: checksum.count });
      endWhenComplete();
    }
  } catch (error) {
    if (!end.signal.aborted) throw error;
  } finally {
    await sluice.close();
  }
  report({ type: 'done', count: checksum.count, digest: checksum.digest() });
}

function endWhenComplete(): void {
  if (checksum.count >= total) end.abort();
}

function report(message: ConsumerReport): void {
  if (process.connected) process.send?.(message);
}
