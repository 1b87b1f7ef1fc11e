import { once } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { Consumer } from '../../src/consumer.js';
import { Db } from '../../src/db.js';
import { Listener } from '../../src/listener.js';
import { eventually, within } from '../support/eventually.js';
import { type Link, startProxy } from '../support/proxy.js';
import { scenario } from '../support/scenario.js';

const POLL_MS = 500;
const NEVER_MS = 3_600_000;

/** Two runs over one listener, behind a proxy that can tell its connection from the others. */
async function listeningRuns() {
  const s = await scenario();
  const rare = await s.sluice.admin.createQueue('rare');
  const proxy = await startProxy(s.url);
  const links = new Set<Link>();
  let claimedAt = 0;
  proxy.judge = ({ link, from, data }) => {
    if (from === 'client' && data.includes('sluice:claim_messages')) claimedAt = performance.now();
    if (from === 'client' && /listen /i.test(data.toString('latin1'))) links.add(link);
    return 'pass';
  };
  const db = Db.open(proxy.url, { schema: s.schema, maxConnections: 10, connectTimeoutMs: 5_000 });
  const listener = new Listener(db, { probeIntervalMs: 300, probeTimeoutMs: 2_000 });
  const times = { deaf: 0, listening: 0 };
  listener.on('deaf', () => times.deaf++).on('listening', () => times.listening++);
  const handled: string[] = [];
  const consumers: Consumer[] = [];
  const started = async (queue: typeof rare, pollIntervalMs: number) => {
    const consumer = await Consumer.open(db, queue, listener, { pollIntervalMs });
    consumers.push(consumer);
    const run = consumer.run<string>(({ payload }) => handled.push(payload));
    run.catch(() => undefined);
  };
  onTestFinished(async () => {
    proxy.judge = () => 'pass';
    proxy.door = 'open';
    for (const consumer of consumers) await within(20_000, 'close', consumer.close()).catch(() => undefined);
    await listener.close();
    await db.close();
    await proxy[Symbol.asyncDispose]();
  });
  const listening = once(listener, 'listening');
  await started(s.queue, POLL_MS);
  await started(rare, NEVER_MS);
  await within(10_000, 'LISTEN', listening);
  const polled = await s.producer();
  const heard = await s.sluice.producer('rare');
  const comes = async (text: string, withinMs: number) => {
    await eventually(text, () => handled.includes(text), withinMs);
  };
  await heard.enqueue('before');
  await comes('before', 2_000);
  // A claim that follows it soon, for what may have been committed late, would find what is not announced.
  await eventually('sleep', () => performance.now() - claimedAt > 0.6 * POLL_MS);
  return { proxy, listener, links, times, polled, heard, handled, comes };
}

/** The consumer that polls gets its messages all the while, the other one those that it has missed and all others. */
async function expectRecovery(
  { polled, heard, handled, comes, listener }: Awaited<ReturnType<typeof listeningRuns>>,
  recover: () => void,
) {
  await polled.enqueue('polled');
  await heard.enqueue('missed');
  await comes('polled', 2 * POLL_MS + 2_000);
  expect(handled).not.toContain('missed');
  const listening = once(listener, 'listening');
  recover();
  await within(15_000, 'LISTEN again', listening);
  await comes('missed', 2_000);
  for (const text of ['heard', 'heard again']) {
    await heard.enqueue(text);
    await comes(text, 2_000);
  }
  expect(handled).toHaveLength(new Set(handled).size);
}

test('a run whose LISTEN connection was killed polls until it has another one, and is woken by that', async () => {
  const runs = await listeningRuns();
  const { proxy, links, listener, times } = runs;
  const deaf = once(listener, 'deaf');
  for (const link of links) link.cut();
  await within(5_000, 'the loss', deaf);
  const before = times.listening;
  // New ones are refused until then; those that are there go on.
  proxy.door = 'shut';
  await expectRecovery(runs, () => (proxy.door = 'open'));
  expect(times).toEqual({ deaf: 1, listening: before + 1 });
});

test('a run whose LISTEN connection is half-open polls, notices it, and is woken by another one', async () => {
  const runs = await listeningRuns();
  const { proxy, links, times } = runs;
  expect(links.size).toBe(1);
  for (const link of links) link.hole();
  // The next one has nothing to say either.
  proxy.door = 'hole';
  await expectRecovery(runs, () => (proxy.door = 'open'));
  expect(times.deaf).toBe(1);
});
