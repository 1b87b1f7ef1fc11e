/* A consumer in a process of its own, until its parent ends it, or a poisoned message does. */
import { setTimeout as delay } from 'node:timers/promises';
import { connect, type Message } from '../../src/index.js';

export interface PoisonedOrders {
  url: string;
  schema: string;
  how: 'run' | 'runBatch' | 'transactional' | 'dequeue' | 'dequeueMany' | 'messages';
  /** Numbers of the messages that end the process as soon as they are handled. */
  poisons: number[];
  maxReadCount: number;
  /** How long a handler takes. */
  handlerMs: number;
}

const { url, schema, how, poisons, maxReadCount, handlerMs } = JSON.parse(
  process.argv[2] as string,
) as PoisonedOrders;
const sluice = await connect({ dsn: url, schema });
const consumer = await sluice.consumer('work', {
  ...{ maxReadCount, lockSeconds: 1, pollIntervalMs: 100, backoff: 0, housekeepingIntervalSeconds: 0.3 },
});

async function handle({ payload }: Message<{ n: number }>): Promise<void> {
  if (poisons.includes(payload.n)) process.kill(process.pid, 'SIGKILL');
  if (handlerMs > 0) await delay(handlerMs);
}

async function byHand(limit: number): Promise<void> {
  for (;;) {
    const messages = await consumer.dequeueMany<{ n: number }>(limit);
    if (messages.length === 0) await delay(20);
    for (const message of messages) {
      await handle(message);
      await message.archive();
    }
  }
}

const ways: Record<PoisonedOrders['how'], () => Promise<unknown>> = {
  run: () => consumer.run(handle, { concurrency: 10 }),
  transactional: () => consumer.run(handle, { concurrency: 5, transactional: true }),
  runBatch: () =>
    consumer.runBatch<{ n: number }>(
      async (messages) => {
        for (const message of messages) await handle(message);
      },
      { batchSize: 20 },
    ),
  dequeue: () => byHand(1),
  dequeueMany: () => byHand(20),
  messages: async () => {
    for await (const message of consumer.messages<{ n: number }>()) {
      await handle(message);
      await message.archive();
    }
  },
};

await ways[how]();
