import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { connect, type Consumer } from '../../src/index.js';
import { databaseUrl } from '../support/database.js';
import { eventually, within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { FULL, report } from '../support/total-queue.js';

const MESSAGES = FULL ? 200_000 : 20_000;
const SCHEMA = 'held';
const CLAIMS = 40;

interface Sent {
  text: string;
  values: unknown[];
}

/** Places of the floor among a claim's parameters. */
const FLOOR = [7, 8] as const;

/** A database of its own: a snapshot that is held there holds up nobody else. */
async function ownDatabase() {
  const admin = new pg.Pool({ connectionString: databaseUrl(), max: 1 });
  const name = `held_${randomBytes(6).toString('hex')}`;
  await admin.query(`create database ${name}`);
  const url = new URL(databaseUrl());
  url.pathname = name;
  const pool = new pg.Pool({ connectionString: url.href, max: 8 });
  pool.on('error', () => undefined);
  const claims: Sent[] = [];
  pool.on('connect', (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    client.query = ((...args: unknown[]) => {
      const { text = '' } = args[0] as Partial<Sent>;
      if (text.includes('sluice:claim_messages */')) claims.push({ text, values: args[1] as unknown[] });
      return query(...args);
    }) as typeof client.query;
  });
  const sluice = await connect({ pool, schema: SCHEMA });
  onTestFinished(async () => {
    await within(20_000, 'closing', sluice.close()).catch(() => undefined);
    await pool.end();
    await admin.query(`drop database ${name} with (force)`);
    await admin.end();
  });
  await sluice.admin.install();
  await sluice.admin.createQueue('work');
  await pool.query(`alter table ${SCHEMA}.pgqrs_messages set (autovacuum_enabled = false)`);
  return { pool, sluice, claims };
}

/** Blocks that a claim looks at, when it is made again and taken back. */
async function blocks(pool: pg.Pool, { text, values }: Sent): Promise<number> {
  const client = await pool.connect();
  try {
    await client.query('begin');
    const { rows } = await client.query<{ 'QUERY PLAN': [{ Plan: Record<string, number> }] }>(
      `explain (analyze, buffers, format json) ${text}`,
      values,
    );
    const { Plan } = rows[0]!['QUERY PLAN'][0];
    return Plan['Shared Hit Blocks']! + Plan['Shared Read Blocks']!;
  } finally {
    await client.query('rollback');
    client.release();
  }
}

/** Milliseconds that a claim of ten takes: the usual, and the longest. */
async function timed(consumer: Consumer) {
  const times: number[] = [];
  for (let n = 0; n < CLAIMS; n++) {
    const began = performance.now();
    const messages = await consumer.dequeueMany(10);
    times.push(performance.now() - began);
    expect(messages).toHaveLength(10);
    await consumer.archiveMany(messages);
  }
  times.sort((a, b) => a - b);
  const round = (ms: number) => Math.round(ms * 100) / 100;
  return { medianMs: round(times[CLAIMS / 2]!), maxMs: round(times.at(-1)!) };
}

test(
  'while an old snapshot keeps dead rows, a claim that begins behind the last one does not walk over them',
  async () => {
    const { pool, sluice, claims } = await ownDatabase();
    await (await sluice.producer('work')).ingest(numbered(MESSAGES), { batchSize: 10_000 });
    await pool.query(`vacuum analyze ${SCHEMA}.pgqrs_messages`);
    const consumer = await sluice.consumer('work');
    const clean = await timed(consumer);
    const cleanBlocks = await blocks(pool, fromBeginning(claims.at(-1)!));

    const holder = await pool.connect();
    await holder.query('begin isolation level repeatable read');
    await holder.query(`select count(*) from ${SCHEMA}.pgqrs_workers`);
    const stop = new AbortController();
    let handled = 0;
    const run = consumer.run(
      () => {
        if (++handled > MESSAGES * 0.8) stop.abort();
      },
      { concurrency: 200, prefetch: 2_000, signal: stop.signal },
    );
    await within(120_000, 'the run', run);
    claims.length = 0;
    const held = await timed(consumer);
    const floored = claims.filter(({ values }) => values[FLOOR[1]] !== null);
    const heldBlocks = {
      floored: await blocks(pool, floored.at(-1)!),
      unfloored: await blocks(pool, fromBeginning(claims.at(-1)!)),
    };

    await holder.query('commit');
    holder.release();
    await pool.query(`vacuum ${SCHEMA}.pgqrs_messages`);
    const vacuumed = await timed(consumer);
    const vacuumedBlocks = await blocks(pool, fromBeginning(claims.at(-1)!));
    report('held snapshot', {
      ...{ messages: MESSAGES, handled, clean, held, vacuumed, ratio: held.medianMs / clean.medianMs },
      blocks: { clean: cleanBlocks, ...heldBlocks, vacuumed: vacuumedBlocks },
    });
    expect(handled).toBeGreaterThan(MESSAGES * 0.8);
    // Once a second from the beginning, whatever comes.
    expect(floored.length).toBeGreaterThan(CLAIMS / 2);
    expect(heldBlocks.floored).toBeLessThan(2 * cleanBlocks);
    expect(heldBlocks.unfloored, 'no dead rows to walk over').toBeGreaterThan(5 * heldBlocks.floored);
    expect(vacuumedBlocks).toBeLessThan(2 * cleanBlocks);
    if (FULL) expect(held.medianMs).toBeLessThan(10 * clean.medianMs);
  },
  FULL ? 300_000 : 60_000,
);

test('a message that is committed late, with an older time, comes within two seconds while a backlog keeps claims full', async () => {
  const { pool, sluice } = await ownDatabase();
  const producer = await sluice.producer<{ n: number }>('work');
  const client = await pool.connect();
  onTestFinished(() => client.release(true));
  await client.query('begin');
  await producer.enqueue({ n: -1 }, { client });
  await producer.ingest(numbered(MESSAGES), { batchSize: 10_000 });

  const consumer = await sluice.consumer('work', { pollIntervalMs: 3_600_000 });
  const stop = new AbortController();
  let handled = 0;
  let cameAt = 0;
  const run = consumer.run<{ n: number }>(
    async ({ payload: { n } }) => {
      handled++;
      if (n === -1) cameAt = performance.now();
      await delay(5);
    },
    { concurrency: 10, prefetch: 100, signal: stop.signal },
  );
  run.catch(() => undefined);
  await eventually('claims beyond it', () => handled > 1_000);
  expect(cameAt).toBe(0);
  await client.query('commit');
  const committedAt = performance.now();
  await eventually('the late one', () => cameAt > 0);
  const { rowCount } = await pool.query(`select from ${SCHEMA}.pgqrs_messages where read_ct = 0 limit 1000`);
  stop.abort();
  await within(10_000, 'the end', run);
  const lateMs = Math.round(cameAt - committedAt);
  report('late commit', { messages: MESSAGES, handled, lateMs });
  expect(rowCount, 'the backlog is over').toBe(1_000);
  expect(lateMs).toBeLessThan(2_000);
});

function fromBeginning({ text, values }: Sent): Sent {
  return { text, values: values.map((value, at) => (at === FLOOR[0] || at === FLOOR[1] ? null : value)) };
}
