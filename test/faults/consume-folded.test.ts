import { setTimeout as delay } from 'node:timers/promises';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import type { Consumer, Message } from '../../src/index.js';
import { eventually } from '../support/eventually.js';
import { numbered, scenario, type Scenario } from '../support/scenario.js';
import { seeded } from '../support/seeded.js';
import { spied } from '../support/spied.js';
import { FULL, report } from '../support/total-queue.js';

const ROUNDS = FULL ? 200 : 10;
/** Few, so that the ones whose leases have run out are the next to be claimed. */
const ROUND = 200;

test.each(['archive', 'delete'] as const)(
  '%s of messages whose leases have run out, sent along with a claim: it comes before the claim, which does not bring them again',
  async (by) => {
    const s = await scenario();
    await (await s.producer()).ingest(numbered(8));
    const { sluice, count, answered } = await spied(s);
    const consumer = await sluice.consumer('work');
    const expired = await consumer.dequeueMany(8, { lockSeconds: 0 });
    const [first, ...others] = expired.slice(0, 5) as [Message, ...Message[]];
    // While the first one waits for its answer the others wait for their turn, and the claim comes earlier.
    const claimed = deferred();
    answered(`${by}_messages`, () => claimed.promise);
    const settled = [first[by]()];
    await eventually('the first one', () => count(`${by}_messages`) > 0);
    settled.push(...others.map((message) => message[by]()));
    const next = await consumer.dequeueMany<{ n: number }>(3);
    claimed.resolve();
    expect(await Promise.all(settled)).toEqual(Array(5).fill(true));
    expect(next.map(({ payload }) => payload.n)).toEqual([5, 6, 7]);
    expect(count(`claim_messages_and_${by}`)).toBe(1);
    expect(count(`${by}_messages`)).toBe(1);
  },
);

test('acknowledgements that travel with claims while leases run out: each message is accepted as done once, and never comes again', async () => {
  const s = await scenario({ maxReadCount: 1_000_000 });
  const producer = await s.producer();
  const { sluice, count } = await spied(s, { pollIntervalMs: 20 });
  const consumers = await Promise.all([sluice.consumer('work'), sluice.consumer('work')]);
  /** Of each message: the counts of its deliveries, and of those that were accepted. */
  const delivered = new Map<string, number[]>();
  const accepted = new Map<string, number[]>();
  const random = seeded(11);
  let answers = 0;
  let refused = 0;
  const consume = (consumer: Consumer, lockSeconds: number) =>
    consumer.messages({ prefetch: ROUND / 5, lockSeconds }).on('data', (message: Message) => {
      add(delivered, message);
      // Handed out with a lease that has just begun: the reader is what comes too late.
      const takesMs = Math.min(50, random() * 2_000 * lockSeconds);
      const handled = delay(takesMs).then(() => message.archive());
      void handled.then((yes) => {
        answers++;
        if (yes) add(accepted, message);
        else refused++;
      });
    });

  for (let round = 0; round < ROUNDS; round++) {
    await producer.ingest(numbered(ROUND, round * ROUND));
    // Too short at first for anything to be done in time.
    for (let lockSeconds = 0.002; (await unfinished(s)) > 0; lockSeconds *= 2) {
      const streams = consumers.map((consumer) => consume(consumer, lockSeconds));
      await eventually('the round', async () => (await unfinished(s)) === 0, 200).catch(() => undefined);
      for (const stream of streams) if (!stream.destroy().closed) await once(stream, 'close');
    }
  }
  const deliveries = () => [...delivered.values()].reduce((sum, counts) => sum + counts.length, 0);
  await eventually('their answers', () => answers === deliveries());

  const { rows } = await s.pool.query<{ id: string; read_ct: number }>(
    `select id::text, read_ct from ${s.schema}.pgqrs_messages`,
  );
  const wrong = rows.filter(({ id, read_ct }) => {
    const last = Math.max(...delivered.get(id)!);
    return !(accepted.get(id)?.length === 1 && accepted.get(id)![0] === read_ct && last === read_ct);
  });
  const folded = count('claim_messages_and_archive');
  report('folded acknowledgements', {
    ...{ messages: rows.length, deliveries: deliveries(), refused, folded },
    alone: count('archive_messages'),
  });
  expect(wrong.slice(0, 5)).toEqual([]);
  expect(rows).toHaveLength(ROUNDS * ROUND);
  // Or nothing was tried: leases ran out, and acknowledgements did travel with claims.
  expect(refused).toBeGreaterThan(0);
  expect(folded).toBeGreaterThan(0);
});

function add(counts: Map<string, number[]>, { id, readCount }: Message): void {
  counts.set(id, [...(counts.get(id) ?? []), readCount]);
}

async function unfinished({ pool, schema }: Scenario): Promise<number> {
  const { rows } = await pool.query<{ count: number }>(
    `select count(*)::int as count from ${schema}.pgqrs_messages where archived_at is null`,
  );
  return rows[0]!.count;
}
