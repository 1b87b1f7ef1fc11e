// The demo's second process: drains the queue as messages arrive and reports what it got.
import { connect, type Consumer } from 'pg-sluice';
import { Checksum } from './checksum.js';
import type { ConsumerOrder, ConsumerReport } from './protocol.js';

const CHUNK = 1_000;

const checksum = new Checksum();
const end = new AbortController();
let consumed = 0;
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
    const acknowledge = acknowledger(consumer);
    for await (const message of messages) {
      checksum.add(message.payload);
      await acknowledge(message.id);
    }
  } catch (error) {
    if (!end.signal.aborted) throw error;
  } finally {
    await sluice.close();
  }
  report({ type: 'done', count: consumed, digest: checksum.digest() });
}

/** Archives while the next messages are read: whatever has come during one statement goes with the next. */
function acknowledger(consumer: Consumer): (id: string) => Promise<void> {
  let waiting: string[] = [];
  let archiving: Promise<void> | undefined;
  const archive = async () => {
    while (waiting.length > 0) {
      const ids = waiting;
      waiting = [];
      const archived = await consumer.archiveMany(ids);
      if (archived.includes(false)) throw new Error('a lease was lost: the consumer was too slow');
      consumed += ids.length;
      report({ type: 'consumed', count: consumed });
      endWhenComplete();
    }
  };
  return async (id) => {
    waiting.push(id);
    archiving ??= archive().finally(() => (archiving = undefined));
    if (waiting.length >= CHUNK) await archiving;
  };
}

function endWhenComplete(): void {
  if (consumed >= total) end.abort();
}

function report(message: ConsumerReport): void {
  if (process.connected) process.send?.(message);
}
