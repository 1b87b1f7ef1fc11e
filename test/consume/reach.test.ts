import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { Reach } from '../../src/consume/reach.js';
import { connect } from '../../src/index.js';
import { eventually } from '../support/eventually.js';
import { scenario } from '../support/scenario.js';
import { enqueue, open, running } from './support.js';

test('what takes too long is halved down to one row, and grows again while all goes well', () => {
  const reach = new Reach(1_000);
  const asked: number[] = [];
  while (reach.size > 1) reach.tookTooLong(reach.size);
  for (let n = 0; n < 100; n++) {
    asked.push(reach.size);
    reach.managed(reach.size);
  }
  expect(asked[0]).toBe(1);
  expect(asked.at(-1)).toBe(1_000);
  reach.managed(1);
  expect(reach.size).toBe(1_000);
});

test('a server whose time is too short for many messages in one claim is asked for fewer, until it answers', async () => {
  const s = await scenario();
  await enqueue(s, 400);
  // So long for each message that is claimed, on a server that gives up after half a second.
  await s.pool.query(`create function ${s.schema}.slow() returns trigger language plpgsql as
    $$ begin perform pg_sleep(0.004); return new; end $$`);
  await s.pool.query(`create trigger slow before update of consumer_worker_id on ${s.schema}.pgqrs_messages
    for each row when (new.consumer_worker_id is distinct from old.consumer_worker_id) execute function ${s.schema}.slow()`);
  const pool = new pg.Pool({ connectionString: s.url, max: 4, options: '-c statement_timeout=500' });
  const sluice = await connect({ pool, schema: s.schema });
  onTestFinished(async () => {
    await sluice.close();
    await pool.end();
  });
  const consumer = await sluice.consumer('work');
  const first = await consumer.dequeueMany(400);
  expect(first.length).toBeGreaterThan(0);
  expect(first.length).toBeLessThan(400);
  for (const message of first) await message.archive();
  const run = running(consumer, () => undefined, { prefetch: 400 });
  await eventually('all of them', async () => (await open(s)) === 0, 30_000);
  expect((await run.stop()).done).toBe(400 - first.length);
});
