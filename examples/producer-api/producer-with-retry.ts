import { setTimeout as sleep } from 'node:timers/promises';
import { type Producer, SluiceError, type Sluice, type StoredMessage } from 'pg-sluice';

export async function enqueueWithRetry(
  producer: Producer,
  payload: unknown,
  maxRetries: number,
): Promise<StoredMessage> {
  let attempts = 0;

  for (;;) {
    try {
      return await producer.enqueue(payload);
    } catch (error) {
      // A `transient` error means that nothing was enqueued, for a reason that passes. All others fail again, or may
      // have enqueued the message (AmbiguousEnqueueError), which another try would double.
      if (!(error instanceof SluiceError && error.transient && attempts < maxRetries)) throw error;
      attempts += 1;
      console.warn(`Enqueue failed, retry ${attempts}/${maxRetries}: ${error.message}`);
      await sleep(100 * 2 ** attempts);
    }
  }
}

/** Built in: every call of a producer retries, three times unless told otherwise, by the same rule and with jitter. */
export async function enqueueWithBuiltInRetry(
  sluice: Sluice,
  payload: unknown,
  maxRetries: number,
): Promise<StoredMessage> {
  await using producer = await sluice.producer('tasks', { retries: maxRetries, retryBaseMs: 200 });

  return await producer.enqueue(payload);
}
