import { once } from 'node:events';
import { expect, test } from 'vitest';
import { Turns } from '../../src/consume/turns.js';
import { eventually } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { spied } from '../support/spied.js';
import { report } from '../support/total-queue.js';
import { open, PATIENT, type Item } from './support.js';

const CONSUMERS = 20;
const MESSAGES = 20;

test('of many consumers that wait for a queue a message wakes few, and none is missed', async () => {
  const s = await scenario();
  const { sluice, count } = await spied(s, { pollIntervalMs: PATIENT.pollIntervalMs });
  const handledBy = new Map<number, number>();
  let handled = 0;
  for (let n = 0; n < CONSUMERS; n++) {
    const consumer = await sluice.consumer('work', { heartbeatIntervalSeconds: 3_600 });
    const listening = n === 0 ? once(consumer, 'listening') : undefined;
    consumer
      .run<Item>(() => {
        handledBy.set(n, (handledBy.get(n) ?? 0) + 1);
        handled++;
      })
      .catch(() => undefined);
    await listening;
  }
  const looks = () =>
    count('claim_messages') +
    count('claim_messages_and_archive') +
    count('next_due') +
    count('archive_messages');
  let before = -1;
  await eventually('all to be asleep', () => {
    const now = looks();
    const quiet = now === before && count('next_due') >= CONSUMERS;
    before = now;
    return quiet;
  });
  const producer = await s.producer();
  const atFirst = looks();
  for (let n = 0; n < MESSAGES; n++) {
    await producer.enqueue({ n });
    await eventually(`message ${n}`, async () => handled > n && (await open(s)) === 0);
  }
  const each = (looks() - atFirst) / MESSAGES;
  report('statements a message', { consumers: CONSUMERS, each });
  expect(each).toBeLessThan(CONSUMERS / 2);
  // They take turns.
  expect(handledBy.size).toBeGreaterThan(CONSUMERS / 4);
}, 60_000);

test('what becomes due while its waiter is just looking wakes it before it falls asleep', async () => {
  const turns = new Turns(() => () => undefined);
  let woken = 0;
  const leave = turns.join({ wake: () => woken++ });
  turns.dueIn(1); // and it has not fallen asleep yet
  await eventually('the wake', () => woken > 0);
  leave();
});
