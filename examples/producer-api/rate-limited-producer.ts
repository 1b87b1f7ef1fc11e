import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Id, type Producer, rateLimit, type Sluice } from 'pg-sluice';

export async function enqueueWithRateLimit(
  producer: Producer,
  payloads: readonly unknown[],
  ratePerSecond: number,
): Promise<Id[]> {
  const ids: Id[] = [];
  const delay = 1_000 / ratePerSecond;

  for (const payload of payloads) {
    const msg = await producer.enqueue(payload);
    ids.push(msg.id);
    await sleep(delay);
  }

  return ids;
}

/**
 * Built in: the producer holds the rate itself, exactly, however many tasks share it. The loop above is slower than its
 * rate by the time that each message takes, and a second loop doubles it.
 */
export async function enqueueWithBuiltInRateLimit(
  sluice: Sluice,
  payloads: readonly unknown[],
  ratePerSecond: number,
): Promise<Id[]> {
  await using producer = await sluice.producer('tasks', {
    maxEnqueuePerSecond: ratePerSecond,
    maxEnqueueBurst: 1, // after a pause; more lets so many through at once
    whenRateLimited: 'wait', // or 'reject', with a RateLimitedError that says when to try again
  });

  const messages = await Promise.all(payloads.map((payload) => producer.enqueue(payload)));
  return messages.map(({ id }) => id);
}

/** For a stream: an own step in the pipeline, which holds the source back. */
export async function streamWithRateLimit(
  producer: Producer,
  payloads: Iterable<unknown> | AsyncIterable<unknown>,
  ratePerSecond: number,
): Promise<void> {
  await pipeline(Readable.from(payloads), rateLimit({ perSecond: ratePerSecond }), producer.writable());
}
