import { once } from 'node:events';
import { expect, test } from 'vitest';
import { dead, enqueue, open, stored } from '../consume/support.js';
import { startChild } from '../support/child-process.js';
import type { PoisonedOrders } from '../support/child-poisoned.js';
import { eventually } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';

/** Starts a process whenever the last one has died, until no message is left. @returns how many have died */
async function untilNothingIsLeft(count: number, orders: Omit<PoisonedOrders, 'url' | 'schema'>) {
  const s = await scenario();
  await enqueue(s, count);
  let deaths = 0;
  for (;;) {
    const { url, schema } = s;
    const { process: child } = startChild('child-poisoned.ts', JSON.stringify({ url, schema, ...orders }));
    const state = { died: false };
    const exited = once(child, 'exit').then(() => (state.died = true));
    await eventually(
      'the end, or the death of the process',
      async () => state.died || (await open(s)) === 0,
      60_000,
    );
    if (!state.died) {
      child.kill('SIGKILL');
      await exited;
      return { s, deaths };
    }
    expect(++deaths).toBeLessThanOrEqual(3 * orders.maxReadCount);
  }
}

test.each<[string, number, Partial<PoisonedOrders>, number]>([
  ['run()', 2_000, { how: 'run', maxReadCount: 5 }, 5],
  ['run() with slow handlers', 60, { how: 'run', handlerMs: 100 }, 3],
  ['runBatch()', 500, { how: 'runBatch' }, 3],
  ['run() in transactions', 300, { how: 'transactional' }, 3],
  ['dequeue()', 50, { how: 'dequeue' }, 3],
  ['dequeueMany()', 200, { how: 'dequeueMany' }, 3],
  ['messages()', 300, { how: 'messages' }, 3],
  ['run() that tries once', 200, { how: 'run', maxReadCount: 1 }, 2],
])(
  '%s: a message that ends its process is the only dead letter, and is one after as many deaths as allowed',
  async (_name, count, orders, deaths) => {
    const poison = Math.floor(count / 3);
    const ended = await untilNothingIsLeft(count, {
      ...{ how: 'run', maxReadCount: 3, handlerMs: 0 },
      ...orders,
      poisons: [poison],
    });
    const rows = await stored(ended.s);
    const letters = (await dead(ended.s)).map(({ messageId }) => rows.find(({ id }) => id === messageId)!.n);
    expect(letters).toEqual([poison]);
    expect(ended.deaths).toBe(deaths);
  },
  300_000,
);

test('two messages that end their process are the only dead letters, with handlers that take their time beside them', async () => {
  const orders = { how: 'run', maxReadCount: 3, handlerMs: 30, poisons: [40, 41] } as const;
  const { s, deaths } = await untilNothingIsLeft(200, { ...orders, poisons: [40, 41] });
  const rows = await stored(s);
  const letters = (await dead(s)).map(({ messageId }) => rows.find(({ id }) => id === messageId)!.n);
  expect(letters.toSorted()).toEqual([40, 41]);
  expect(deaths).toBeGreaterThanOrEqual(4);
}, 300_000);
