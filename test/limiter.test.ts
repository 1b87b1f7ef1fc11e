import { getEventListeners } from 'node:events';
import { describe, expect, test } from 'vitest';
import { RateLimitedError } from '../src/errors/index.js';
import { Limiter } from '../src/limiter.js';
import { within } from './support/eventually.js';

describe('a limiter that waits', () => {
  const waiting = (perSecond: number, burst: number) =>
    new Limiter({ perSecond, burst, whenLimited: 'wait' });

  test('lets a batch larger than the burst pass at once when it is full, and charges it over the time that follows', async () => {
    const limiter = waiting(1_000, 50);
    await within(1_000, 'the batch', limiter.take(70));
    expect(limiter.status).toMatchObject({ perSecond: 1_000, burst: 50 });
    const started = performance.now();
    await limiter.take(50);
    expect(performance.now() - started).toBeGreaterThanOrEqual(60);
  });

  test('lets those who came first go first', async () => {
    const limiter = waiting(200, 1);
    const order: number[] = [];
    await Promise.all(Array.from({ length: 10 }, (_, n) => limiter.take(1).then(() => order.push(n))));
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  test('keeps its rate for one caller that waits for each', async () => {
    const limiter = waiting(500, 1);
    const started = performance.now();
    for (let n = 0; n <= 100; n++) await limiter.take(1);
    // 100 after the first one take 200 ms, never less; lateness of the timers is made up for.
    expect(performance.now() - started).toBeGreaterThanOrEqual(199);
    expect(limiter.status.available).toBeLessThan(60);
  });

  test('gives back what an aborted wait had reserved, rejects with the reason, and leaves no listener', async () => {
    const limiter = waiting(1, 1);
    await limiter.take(1);
    const controller = new AbortController();
    const waits = [limiter.take(1_000, controller.signal), limiter.take(5, controller.signal)];
    controller.abort(new Error('enough'));
    for (const wait of waits) await expect(wait).rejects.toThrow('enough');
    expect(limiter.status.available).toBeGreaterThan(-0.1);
    expect(getEventListeners(controller.signal, 'abort')).toEqual([]);
    await expect(limiter.take(1, controller.signal)).rejects.toThrow('enough');
  });

  test('outlasts waits that are longer than a timer can be', async () => {
    const limiter = waiting(1e-6, 1);
    await limiter.take(1);
    const controller = new AbortController();
    const wait = limiter.take(1, controller.signal);
    // A timer that overflowed would fire after 1 ms, long before this one.
    setTimeout(() => controller.abort(new Error('enough')), 20);
    await expect(wait).rejects.toThrow('enough');
  });
});

test('ending it rejects all who wait, at once', async () => {
  const limiter = new Limiter({ perSecond: 0.001, burst: 1, whenLimited: 'wait' });
  await limiter.take(1);
  const waits = [limiter.take(1), limiter.take(1)];
  limiter.end(new Error('over'));
  for (const wait of waits) await expect(within(1_000, 'the end', wait)).rejects.toThrow('over');
});

describe('a limiter that rejects', () => {
  test('says when to try again, and then lets pass; what it rejected was not charged', async () => {
    const limiter = new Limiter({ perSecond: 100, burst: 5, whenLimited: 'reject' });
    await limiter.take(5);
    const refused: unknown = await limiter.take(3).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(RateLimitedError);
    const { retryAfterMs, transient, message } = refused as RateLimitedError;
    expect(transient).toBe(true);
    expect(retryAfterMs).toBeGreaterThan(0);
    expect(retryAfterMs).toBeLessThanOrEqual(30);
    expect(message).toContain(`try again in ${retryAfterMs} ms`);
    for (let again = 0; again < 50; again++) await limiter.take(3).catch(() => undefined);
    const retryAt = performance.now() + retryAfterMs;
    while (performance.now() < retryAt);
    await limiter.take(3);
  });

  test('lets a batch larger than the burst pass when it is full', async () => {
    const limiter = new Limiter({ perSecond: 10, burst: 2, whenLimited: 'reject' });
    await limiter.take(100);
    const refused: unknown = await limiter.take(1).catch((error: unknown) => error);
    expect((refused as RateLimitedError).retryAfterMs).toBeGreaterThan(9_000);
  });
});
