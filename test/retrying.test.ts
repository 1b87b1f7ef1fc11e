import { expect, test, vi } from 'vitest';
import { ConnectionError, PermissionDeniedError, TimeoutError } from '../src/errors/index.js';
import { retrying } from '../src/retrying.js';

const QUICK = { baseMs: 1, maxMs: 2 };
const passing = () => new ConnectionError('away', true);

test('what passes is done again as often as that is allowed', async () => {
  const work = vi.fn(() => Promise.reject(passing()));
  const waits: number[] = [];
  const onRetry = (attempt: number) => waits.push(attempt);
  await expect(retrying({ ...QUICK, retries: 3, onRetry }, work)).rejects.toThrow('away');
  expect(work).toHaveBeenCalledTimes(4);
  expect(waits).toEqual([1, 2, 3]);
});

test('what does not pass is not done again', async () => {
  const work = vi.fn(() => Promise.reject(new PermissionDeniedError('no')));
  await expect(retrying({ ...QUICK, retries: 3 }, work)).rejects.toThrow('no');
  expect(work).toHaveBeenCalledTimes(1);
});

test('a try that has only what is left of the time tells the whole of it', async () => {
  const work = (ms: number) => Promise.reject(new TimeoutError('asking', ms));
  await expect(retrying({ ...QUICK, withinMs: 10 }, work)).rejects.toMatchObject({ ms: 10 });
});

test('an abort ends the wait with its reason', async () => {
  const abort = new AbortController();
  const onRetry = () => abort.abort(new Error('enough'));
  const tries = retrying({ baseMs: 60_000, maxMs: 60_000, signal: abort.signal, onRetry }, () =>
    Promise.reject(passing()),
  );
  await expect(tries).rejects.toThrow('enough');
});

test('in a hurry the wait ends, and one more try is the last', async () => {
  const hurry = new AbortController();
  const work = vi.fn(() => Promise.reject(passing()));
  const onRetry = () => hurry.abort();
  const tries = retrying({ baseMs: 60_000, maxMs: 60_000, hurry: hurry.signal, onRetry }, work);
  await expect(tries).rejects.toThrow('away');
  expect(work).toHaveBeenCalledTimes(2);
});
