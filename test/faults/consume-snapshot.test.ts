import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { Acknowledgements } from '../../src/consume/acknowledgements.js';
import { Claims } from '../../src/consume/claims.js';
import { Floor } from '../../src/consume/floor.js';
import type { Session } from '../../src/db.js';
import { connect, type Consumer } from '../../src/index.js';
import type { Holder } from '../../src/message.js';
import { settleMessages } from '../../src/sql/settle.js';
import { onSql } from '../sql/support.js';
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
  const queue = await sluice.admin.createQueue('work');
  await pool.query(`alter table ${SCHEMA}.pgqrs_messages set (autovacuum_enabled = false)`);
  return { pool, sluice, claims, schema: SCHEMA, queue, consumer: () => sluice.consumer('work') };
}

/** @returns what ends it */
async function holdSnapshot(pool: pg.Pool): Promise<() => Promise<void>> {
  const holder = await pool.connect();
  await holder.query('begin isolation level repeatable read');
  await holder.query(`select count(*) from ${SCHEMA}.pgqrs_workers`);
  return async () => {
    await holder.query('commit');
    holder.release();
  };
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

    const release = await holdSnapshot(pool);
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

    await release();
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

test('while an old snapshot keeps dead rows, claims of a trickle read what has come since, not what is dead', async () => {
  const own = await ownDatabase();
  const { db, worker } = await onSql(own);
  const producer = await own.sluice.producer<{ n: number }>('work');
  const release = await holdSnapshot(own.pool);
  const session = await db.session();
  onTestFinished(() => session.discard());

  /** Index entries that the claims since the last look at this have read. */
  let entries = 0;
  const read = async () => {
    const [found] = await session.query<{ entries: number }>(
      `select sum(pg_stat_get_xact_tuples_returned(indexrelid))::float8 as entries from pg_index
       where indrelid = to_regclass($1)`,
      [`${SCHEMA}.pgqrs_messages`],
    );
    return found!.entries;
  };
  const answered = async <R>(_what: string, work: (on: Session) => Promise<R>): Promise<R> => {
    await session.script('begin');
    const was = await read();
    const answer = await work(session);
    entries += (await read()) - was;
    await session.script('commit');
    return answer;
  };
  const { signal: hurry } = new AbortController();
  const nothingTo = () => new Acknowledgements({ send: () => Promise.resolve([]), hurry });
  let nowMs = 0;
  const claims = new Claims({
    ...{ worker, answered, parsePayload: JSON.parse },
    claimable: { queueId: own.queue.id, maxReadCount: 5, foreignLeases: 'stale' },
    // Its time stands still: no look before it is due.
    floor: new Floor(() => nowMs),
    done: { archive: nothingTo(), delete: nothingTo() },
    holder: {} as Holder,
    onUnreadable: (_message, error) => expect.unreachable(String(error)),
    fenced: () => new Error('fenced'),
  });
  const round = async () => {
    await producer.batchEnqueue([...numbered(10)]);
    entries = 0;
    const held = await claims.claim({ room: { limit: 100, maxBytes: Infinity }, lockSeconds: 60, hurry });
    expect(held).toHaveLength(10);
    await settleMessages(db, worker, { by: 'delete', held });
    return entries;
  };
  const costs: number[] = [];
  while (costs.length < 300) costs.push(await round());
  nowMs = 3_600_000;
  const fromTheBeginning = await round();
  const [early, late] = [Math.max(...costs.slice(5, 30)), Math.max(...costs.slice(-25))];
  await release();
  report('trickle behind a held snapshot', { early, late, fromTheBeginning });
  expect(fromTheBeginning, 'no dead entries to walk over').toBeGreaterThan(3_000);
  expect(late).toBeLessThan(2 * early);
  expect(late).toBeLessThan(100);
});

test('what is committed late is found behind an old snapshot too, in a trickle and when nothing else comes', async () => {
  const { pool, sluice } = await ownDatabase();
  const producer = await sluice.producer<{ n: number }>('work');
  const consumer = await sluice.consumer('work', { pollIntervalMs: 3_600_000 });
  const release = await holdSnapshot(pool);
  const handled = new Set<number>();
  const stop = new AbortController();
  const run = consumer.run<{ n: number }>(({ payload: { n } }) => void handled.add(n), {
    signal: stop.signal,
  });
  run.catch(() => undefined);
  let sent = 0;
  const trickles = new AbortController();
  const trickle = (async () => {
    while (!trickles.signal.aborted) {
      await producer.enqueue({ n: sent++ });
      await delay(5);
    }
  })();
  await eventually('a trickle', () => handled.size > 100);

  const client = await pool.connect();
  onTestFinished(() => client.release(true));
  const late = async (n: number, seconds: number) => {
    await client.query('begin');
    const { id } = await producer.enqueue({ n }, { client });
    await client.query(
      `update ${SCHEMA}.pgqrs_messages set vt = now() - $2 * interval '1 second', enqueued_at = now() - $2 * interval '1 second'
       where id = $1`,
      [id, seconds],
    );
    await client.query('commit');
    const from = performance.now();
    await eventually(`the one that is ${seconds} s late`, () => handled.has(n), 5_000);
    return Math.round(performance.now() - from);
  };
  const lateMs = { inATrickle: [await late(-1, 5), await late(-2, 30), await late(-3, 3_600)], alone: [0] };
  trickles.abort();
  await trickle;
  await eventually('all of the trickle', () => handled.size >= sent + 3);
  lateMs.alone = [await late(-4, 5), await late(-5, 30), await late(-6, 3_600)];
  await release();
  stop.abort();
  await within(10_000, 'the end', run);
  report('late commits', { sent, ...lateMs });
});

function fromBeginning({ text, values }: Sent): Sent {
  return { text, values: values.map((value, at) => (at === FLOOR[0] || at === FLOOR[1] ? null : value)) };
}
