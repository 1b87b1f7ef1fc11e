import type { Producer } from 'pg-sluice';

export async function workerMethods(producer: Producer) {
  // Get worker ID
  const id = producer.workerId;

  // Check status
  const status = await producer.status();

  // Send heartbeat (a timer does so every five seconds)
  await producer.heartbeat();

  // Check if healthy (last heartbeat within 5 minutes)
  const healthy = await producer.isHealthy({ minutes: 5 });

  // Lifecycle operations
  await producer.suspend();
  await producer.resume();

  // Only a suspended worker can be shut down; close() does both, from whatever state
  await producer.suspend();
  await producer.shutdown();

  return { id, status, healthy };
}
