import { describe, expect, test } from 'vitest';
import { numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { missing, POOL_SIZE } from './pgbouncer.js';
import { pooled } from './pooled.js';

const ROWS = 500;

describe.skipIf(missing !== undefined)('consumer.run through PgBouncer', () => {
  test('two workers handle each message once, and those that fail again', async () => {
    const s = await pooled();
    await (await s.producer()).ingest(numbered(ROWS), { batchSize: 50 });
    const consumers = [await s.consumer(), await (await s.another()).consumer('work')];
    const stop = new AbortController();
    const handled: number[] = [];
    const failed = new Set<number>();
    const runs = consumers.map((consumer) =>
      consumer.run<{ n: number }>(
        async ({ payload: { n } }, context) => {
          expect(await context.extend(60)).toBe(true);
          if (n % 50 === 0 && !failed.has(n)) {
            failed.add(n);
            throw new Error('not at the first time');
          }
          handled.push(n);
        },
        { concurrency: 2 * POOL_SIZE, signal: stop.signal },
      ),
    );
    await eventually('all messages', () => handled.length >= ROWS, 30_000);
    stop.abort();
    const summaries = await within(10_000, 'the runs', Promise.all(runs));
    expect(handled.toSorted((a, b) => a - b)).toEqual(numbers(ROWS));
    const sum = (of: 'done' | 'retried' | 'lost') =>
      summaries.reduce((total, summary) => total + summary[of], 0);
    expect([sum('done'), sum('retried'), sum('lost')]).toEqual([ROWS, ROWS / 50, 0]);
  });

  test('what a transactional handler writes is there once for each message, with more handlers than server connections', async () => {
    const s = await pooled();
    await s.pool.query(`create table ${s.schema}.handled (n int primary key)`);
    await (await s.producer()).ingest(numbered(ROWS), { batchSize: 50 });
    const consumer = await s.consumer();
    const stop = new AbortController();
    const failed = new Set<number>();
    const running = consumer.run<{ n: number }>(
      async ({ payload: { n } }, { client }) => {
        await client.query(`insert into ${s.schema}.handled values ($1)`, [n]);
        if (n % 50 === 0 && !failed.has(n)) {
          failed.add(n);
          throw new Error('not at the first time');
        }
      },
      { concurrency: 2 * POOL_SIZE, transactional: true, signal: stop.signal },
    );
    const left = async () => {
      const { rows } = await s.pool.query<{ count: number }>(
        `select count(*)::int as count from ${s.schema}.pgqrs_messages where archived_at is null`,
      );
      return rows[0]!.count;
    };
    await eventually('the end', async () => (await left()) === 0, 30_000);
    stop.abort();
    expect(await within(10_000, 'the run', running)).toMatchObject({ done: ROWS, retried: ROWS / 50 });
    const { rows } = await s.pool.query<{ n: number }>(`select n from ${s.schema}.handled order by n`);
    expect(rows.map(({ n }) => n)).toEqual(numbers(ROWS));
  });
});
