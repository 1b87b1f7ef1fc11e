import { expect, onTestFinished, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { connect } from '../../src/index.js';
import { eventually } from '../support/eventually.js';
import { startProxy } from '../support/proxy.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { enqueue, PATIENT, running, stored } from './support.js';

const MESSAGES = 3_000;
/** So many are handled at once; then handlers hang. */
const QUICK = 500;
const CONCURRENCY = 10;

/** A run whose handlers become slow when it has got used to quick ones. */
async function turningSlow(s: Scenario, url: string) {
  const sluice = await connect({ dsn: url, schema: s.schema });
  const consumer = await sluice.consumer('work', PATIENT);
  const gate = deferred();
  onTestFinished(async () => {
    gate.resolve();
    await sluice.close().catch(() => undefined);
  });
  let handled = 0;
  running(consumer, () => (++handled <= QUICK ? undefined : gate.promise), { concurrency: CONCURRENCY });
  await eventually('handlers that hang', () => handled === QUICK + CONCURRENCY);
  return consumer.workerId;
}

/** Waits until another consumer has handled all that the slow one does not need. */
async function othersGetTheRest(s: Scenario, slow: string): Promise<void> {
  const idle = await s.consumer({ pollIntervalMs: 100 });
  running(idle, () => undefined);
  await eventually(
    'the rest in other hands',
    async () => {
      const messages = await stored(s);
      const held = messages.filter(({ archived, consumer }) => !archived && consumer === slow).length;
      const done = messages.filter(({ archived }) => archived).length;
      return held <= 3 * CONCURRENCY && done + held === MESSAGES;
    },
    20_000,
  );
}

test('what waits for handlers that have become slow goes back, uncounted, and others handle it', async () => {
  const s = await scenario();
  await enqueue(s, MESSAGES);
  await othersGetTheRest(s, await turningSlow(s, s.url));
  expect(new Set((await stored(s)).map(({ readCount }) => readCount))).toEqual(new Set([1]));
});

test('what could not be given back is given back later', async () => {
  const s = await scenario();
  await enqueue(s, MESSAGES);
  const proxy = await startProxy(s.url);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  let cuts = 0;
  proxy.judge = ({ from, data }) =>
    from === 'client' && data.includes('give_back') && cuts++ < 3 ? 'cut' : 'pass';
  await othersGetTheRest(s, await turningSlow(s, proxy.url));
  expect(cuts).toBeGreaterThan(3);
  expect(new Set((await stored(s)).map(({ readCount }) => readCount))).toEqual(new Set([1]));
});
