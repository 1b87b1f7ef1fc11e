import { expect, test } from 'vitest';
import { startChild } from '../support/child-process.js';
import type { WorkerNews, WorkerOrders } from '../support/child-worker.js';
import { eventually } from '../support/eventually.js';
import { numbered, scenario } from '../support/scenario.js';
import { row } from '../support/worker-rows.js';

const ORDERS: WorkerOrders = { by: 'run', lockSeconds: 30, concurrency: 2, prefetch: 3, gated: true };

test('a worker that gets SIGTERM settles what its handlers are at, gives the rest back, signs off and ends with 0', async () => {
  const s = await scenario();
  const messages = `${s.schema}.pgqrs_messages`;
  await s.pool.query(`create table ${s.schema}.effects (n int, worker bigint, read_ct int)`);
  await (await s.producer()).ingest(numbered(6));
  // Three of them have been tried before.
  const before = await s.consumer();
  const tried = await before.dequeueMany<{ n: number }>(6);
  await before.releaseMany(tried);
  await s.pool.query(`update ${messages} set read_ct = 0 where (payload->>'n')::int % 2 = 0`);

  const child = startChild('child-worker.ts', s.url, s.schema, JSON.stringify(ORDERS));
  expect(await child.next()).toEqual({ up: true });
  child.process.send('go');
  const { worker } = (await child.next()) as WorkerNews;
  const handling = [await child.next(), await child.next()] as WorkerNews[];
  const held = await eventually('a full prefetch', async () => {
    const { rowCount } = await s.pool.query(`select from ${messages} where consumer_worker_id = $1`, [
      worker,
    ]);
    return rowCount === 5 ? rowCount : undefined;
  });
  expect(held).toBe(5);

  child.process.kill('SIGTERM');
  // What nobody has begun is there for others while the handlers are still at work.
  await eventually('the prefetched ones', async () => {
    const { rowCount } = await s.pool.query(`select from ${messages} where consumer_worker_id is null`);
    return rowCount === 4;
  });
  expect(await row(s, worker!)).toMatchObject({ stopped: false });
  child.process.send('finish');
  const { ended } = (await child.next()) as WorkerNews;
  expect(ended).toEqual({ done: 2, retried: 0, dead: 0, lost: 0, released: 0 });
  expect(await child.exit()).toBe(0);

  const { rows } = await s.pool.query<{ n: number; read_ct: number; worker: string | null; done: boolean }>(
    `select (payload->>'n')::int as n, read_ct, consumer_worker_id::text as worker, archived_at is not null as done
     from ${messages} order by 1`,
  );
  const handled = new Set(handling.map((news) => news.handling));
  expect(rows).toEqual(
    rows.map(({ n }) => {
      const done = handled.has(n);
      return { n, read_ct: (n % 2) + (done ? 1 : 0), worker: done ? worker : null, done };
    }),
  );
  expect(rows.filter(({ done }) => done)).toHaveLength(2);
  expect(await row(s, worker!)).toMatchObject({ stopped: true, status: 'stopped' });
  const effects = await s.pool.query<{ n: number }>(`select n from ${s.schema}.effects`);
  expect(new Set(effects.rows.map(({ n }) => n))).toEqual(handled);
});
