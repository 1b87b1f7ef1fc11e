import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import type { Producer } from '../../src/index.js';
import { behindProxy } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { numbered, scenario, type Scenario } from '../support/scenario.js';

const INTERVAL_MS = 100;

/** Keeps when the server got each heartbeat, in ms of its clock. */
async function recordBeats({ pool, schema }: Scenario): Promise<(id: string) => Promise<number[]>> {
  await pool.query(`
    create table ${schema}.beats (worker_id bigint, at timestamptz);
    create function ${schema}.record_beat() returns trigger language plpgsql as $$
    begin
      insert into ${schema}.beats values (new.id, new.heartbeat_at);
      return new;
    end $$;
    create trigger record_beat after update of heartbeat_at on ${schema}.pgqrs_workers
      for each row execute function ${schema}.record_beat()`);
  return async (id) => {
    const { rows } = await pool.query<{ at: number }>(
      `select extract(epoch from at)::float8 * 1000 as at from ${schema}.beats where worker_id = $1 order by at`,
      [id],
    );
    return rows.map(({ at }) => at);
  };
}

function largestGap(beats: readonly number[]): number {
  return Math.max(...beats.slice(1).map((at, n) => at - beats[n]!));
}

/** Rows as fast as their serialising goes: nothing of the source ever waits. */
const ROWS = Number(process.env.SLUICE_HEARTBEAT_ROWS ?? 150_000);

test('heartbeats go on while rows are serialised through writable() as fast as it takes them', async () => {
  const s = await scenario();
  const beatsOf = await recordBeats(s);
  const producer = await s.producer({ heartbeatIntervalSeconds: INTERVAL_MS / 1_000 });
  const failed: Error[] = [];
  producer.on('heartbeatError', (error) => failed.push(error));
  await eventually('the first beat', async () => (await beatsOf(producer.workerId)).length > 0);
  const begun = performance.now();
  await pipeline(Readable.from(numbered(ROWS)), producer.writable());
  const ms = performance.now() - begun;
  const beats = await beatsOf(producer.workerId);
  const gap = largestGap(beats);
  console.info(
    `${ROWS} rows in ${Math.round(ms)} ms: ${beats.length} heartbeats, largest gap ${Math.round(gap)} ms of ${INTERVAL_MS}`,
  );
  expect(failed).toEqual([]);
  // A tenth late by design, each after the answer to the last; the rest is for a machine with much else to do.
  expect(gap).toBeLessThan(1_500);
  expect(beats.length).toBeGreaterThan(ms / 1_500);
});

test('heartbeats go on while 1,000 tasks enqueue all the time', async () => {
  const s = await scenario();
  const beatsOf = await recordBeats(s);
  const producer = await s.producer({ heartbeatIntervalSeconds: INTERVAL_MS / 1_000 });
  let stopped = false;
  const tasks = Array.from({ length: 1_000 }, async (_, n) => {
    while (!stopped) await producer.enqueue({ n });
  });
  await eventually('ten beats', async () => (await beatsOf(producer.workerId)).length >= 10, 20_000);
  stopped = true;
  await within(10_000, 'the tasks', Promise.all(tasks));
  const gap = largestGap(await beatsOf(producer.workerId));
  console.info(`${await s.count()} messages, largest gap ${Math.round(gap)} ms of ${INTERVAL_MS}`);
  expect(gap).toBeLessThan(1_500);
});

const OUTAGE_MS = Number(process.env.SLUICE_OUTAGE_MS ?? 1_500);

/** Beats fail while the line is out, one after the other; then they go on, of the same life of the worker. */
async function survives(
  s: Scenario,
  producer: Producer,
  out: () => void,
  back: () => void,
  atLeast: number,
): Promise<void> {
  const incarnation = async () => {
    const { rows } = await s.pool.query<{ at: string }>(
      `select started_at::text as at from ${s.schema}.pgqrs_workers where id = ${producer.workerId}`,
    );
    return rows[0]!.at;
  };
  const before = await incarnation();
  const errors: Error[] = [];
  producer.on('heartbeatError', (error) => errors.push(error));
  producer.on('fenced', () => expect.unreachable());
  const begun = performance.now();
  out();
  await eventually(
    'failed beats',
    () => errors.length >= atLeast && performance.now() - begun > OUTAGE_MS,
    OUTAGE_MS + 30_000,
  );
  back();
  const backAt = performance.now();
  await eventually('health', async () => {
    const { rows } = await s.pool.query<{ age: number }>(
      `select extract(epoch from now() - heartbeat_at)::float8 as age from ${s.schema}.pgqrs_workers where id = ${producer.workerId}`,
    );
    return rows[0]!.age * 1_000 < 2 * INTERVAL_MS;
  });
  console.info(
    `out for ${Math.round(backAt - begun)} ms: ${errors.length} heartbeatError, healthy ${Math.round(performance.now() - backAt)} ms after`,
  );
  for (const error of errors)
    expect(error).toMatchObject({ code: expect.stringMatching(/^(?:CONNECTION_FAILED|TIMEOUT)$/) as string });
  expect(await within(5_000, 'isHealthy', producer.isHealthy({ seconds: 5 }))).toBe(true);
  expect(await incarnation()).toBe(before);
  await within(5_000, 'a call', producer.enqueue({ n: 0 }));
}

test('heartbeats that find the door shut are events, and go on when it opens', async () => {
  const behind = await behindProxy();
  const producer = await behind.sluiceThrough.producer('work', {
    heartbeatIntervalSeconds: INTERVAL_MS / 1_000,
  });
  await survives(
    behind,
    producer,
    () => {
      behind.proxy.door = 'shut';
      behind.proxy.cutAll();
    },
    () => (behind.proxy.door = 'open'),
    5,
  );
});

test('heartbeats that get no answer are given up, and go on when the line is back', async () => {
  const behind = await behindProxy();
  const producer = await behind.sluiceThrough.producer('work', {
    heartbeatIntervalSeconds: INTERVAL_MS / 1_000,
  });
  await survives(
    behind,
    producer,
    () => {
      behind.proxy.door = 'hole';
      behind.proxy.judge = () => 'hole';
    },
    () => {
      behind.proxy.door = 'open';
      behind.proxy.judge = () => 'pass';
      behind.proxy.cutAll();
    },
    1,
  );
});
