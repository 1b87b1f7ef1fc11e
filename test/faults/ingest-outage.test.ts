import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import type { RetryEvent } from '../../streams/sink.js';
import { behindProxy, expectNothingLeft, numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { saysCommitted } from '../support/proxy.js';
import { numbered } from '../support/scenario.js';

const OPTIONS = { batchSize: 100, retryBaseMs: 1, retryMaxMs: 20, batchTimeoutMs: 2_000 };

test('a server that is away for a while is waited for, and the load goes on where it was', async () => {
  const behind = await behindProxy();
  const { proxy, through } = behind;
  const stream = through.writable(OPTIONS);
  const retries: RetryEvent[] = [];
  stream.on('retry', (event) => {
    retries.push(event);
    if (event.attempt === 4) proxy.door = 'open';
  });
  const loaded = pipeline(Readable.from(numbered(20_000)), stream);
  await eventually('some batches', () => stream.stats.batches >= 5);
  proxy.door = 'shut';
  proxy.cutAll();
  await within(20_000, 'the load', loaded);
  expect(await behind.delivered()).toEqual(numbers(20_000));
  expect(stream.stats.retries).toBe(retries.length);
  // The batch in front is tried again and again, those behind it wait.
  const front = retries.find(({ attempt }) => attempt === 4)!.seq;
  expect(retries.filter(({ seq }) => seq === front).map(({ attempt }) => attempt)).toEqual([1, 2, 3, 4]);
  for (const { error, attempt, delayMs } of retries) {
    expect(error).toMatchObject({ transient: true });
    expect(delayMs).toBeGreaterThan(0);
    expect(delayMs).toBeLessThanOrEqual(Math.min(20, 2 ** (attempt - 1)));
  }
  await expectNothingLeft(behind, behind.sluiceThrough);
});

test('a server that stays away ends the stream when the retries are used up', async () => {
  const behind = await behindProxy();
  const { proxy, through } = behind;
  const stream = through.writable({ ...OPTIONS, retries: 3 });
  const loaded = pipeline(Readable.from(numbered(1_000_000)), stream);
  const failed = loaded.catch((error: unknown) => error);
  await eventually('some batches', () => stream.stats.batches >= 5);
  proxy.door = 'shut';
  proxy.cutAll();
  // Before it says `error` it asks the ledger, if the outage came in the middle of a COMMIT.
  await eventually('the end of the retries', () => stream.destroyed);
  proxy.door = 'open';
  expect(await within(20_000, 'the failure', failed)).toMatchObject({ code: 'CONNECTION_FAILED' });
  const delivered = await behind.delivered();
  expect(delivered).toEqual(numbers(delivered.length));
  expect(stream.stats.committed).toBe(delivered.length);
});

test('when the server leaves with the answer to a COMMIT, it is asked about it as soon as it is back', async () => {
  const behind = await behindProxy();
  const { proxy, through } = behind;
  let commits = 0;
  let asked = 0;
  proxy.judge = (bytes) => {
    if (bytes.data.includes('sluice:fence_stream')) asked++;
    if (!saysCommitted(bytes) || ++commits !== 3) return 'pass';
    proxy.door = 'shut';
    queueMicrotask(() => proxy.cutAll());
    return 'cut';
  };
  const stream = through.writable({ ...OPTIONS, retries: 1 });
  const failed = pipeline(Readable.from(numbered(1_000)), stream).catch((error: unknown) => error);
  // The retries are used up while the server is away; the question comes later.
  await eventually('the end of the retries', () => stream.destroyed);
  proxy.door = 'open';
  expect(await within(20_000, 'the failure', failed)).toMatchObject({
    code: 'CONNECTION_FAILED',
    progress: { committed: 300, position: '300' },
  });
  expect(asked).toBeGreaterThan(0);
  expect(await behind.delivered()).toEqual(numbers(300));
  await expectNothingLeft(behind, behind.sluiceThrough);
});
