import { expect, onTestFinished, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { messageMemory } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { ending, leased } from './support.js';

const QUEUES = 100;
const EACH = 10;
const BYTES = 50_000;
const LIMIT = 1_000_000;

test('a hundred queues in one process fit into its memory for messages, and none of them starves', async () => {
  const limit = messageMemory.limitBytes;
  messageMemory.limitBytes = LIMIT;
  onTestFinished(() => void (messageMemory.limitBytes = limit));
  const s = await scenario({ heartbeatIntervalSeconds: 3_600 });
  const names = Array.from({ length: QUEUES }, (_, n) => `queue-${n}`);
  for (const name of names) await s.sluice.admin.createQueue(name);
  // What compresses well is small on the server's disk only.
  await s.pool.query(
    `insert into ${s.schema}.pgqrs_messages (queue_id, payload, vt)
     select q.id, jsonb_build_object('n', n, 'text', repeat('some text ', $1)), now()
     from ${s.schema}.pgqrs_queues q, generate_series(1, $2) n where q.queue_name like 'queue-%'`,
    [BYTES / 10, EACH],
  );
  const gate = deferred();
  const begun = new Set<string>();
  let handled = 0;
  const runs = await Promise.all(
    names.map(async (name) => {
      const consumer = await s.sluice.consumer(name);
      return ending((signal) =>
        consumer.run(
          async () => {
            begun.add(name);
            await gate.promise;
            handled++;
          },
          { signal },
        ),
      );
    }),
  );
  await eventually('a handler of each queue', () => begun.size === QUEUES, 20_000);
  expect(await leased(s)).toBeLessThanOrEqual(LIMIT / BYTES + QUEUES);
  gate.resolve();
  await eventually('all messages', () => handled >= QUEUES * EACH, 30_000);
  await within(30_000, 'the end of all', Promise.all(runs.map((run) => run.stop())));
  expect(handled).toBe(QUEUES * EACH);
  expect(messageMemory.heldBytes).toBe(0);
}, 90_000);
