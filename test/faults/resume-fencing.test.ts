import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import type { Producer } from '../../src/index.js';
import { behindProxy, closed, counted, expectNothingLeft, numbers } from '../ingest/support.js';
import { startChild } from '../support/child-process.js';
import { eventually, within } from '../support/eventually.js';
import { asksToCommit, type Link, saysCommitted } from '../support/proxy.js';
import { numbered, scenario, type Scenario } from '../support/scenario.js';

const NAME = 'load';
const BATCH = { batchSize: 50, lingerMs: 5, resume: NAME };
const ROWS = 5_000;

/** Loads the whole source, from wherever the stream is. */
const finish = (producer: Producer) =>
  within(
    30_000,
    'the new run',
    producer.ingest((from) => numbered(ROWS - Number(from ?? 0), Number(from ?? 0)), BATCH),
  );

/** Every row is there once and in order, and the ledger knows it. */
async function expectWhole(s: Scenario): Promise<void> {
  expect(await s.delivered()).toEqual(numbers(ROWS));
  expect(await s.sluice.admin.getStream(NAME)).toMatchObject({ rows: ROWS, position: String(ROWS) });
}

test.each([1, 4])(
  'of two producers in a process the second fences the first, which has %i batches in flight: nothing lost or doubled',
  async (concurrency) => {
    const s = await scenario();
    const [first, second] = [await s.producer(), await s.producer()];
    const stream = first.writable({ ...BATCH, concurrency });
    const events = counted(stream);
    const endless = pipeline(Readable.from(numbered(1_000_000)), stream).catch(() => undefined);
    await eventually('some batches', () => stream.stats.batches >= 5);

    const taken = second.writable({ ...BATCH, concurrency });
    const from = Number(await taken.resumeFrom);
    await closed(stream);
    await endless;
    expect(events).toMatchObject({
      finish: 0,
      error: 1,
      close: 1,
      reason: { code: 'STREAM_FENCED', stream: NAME, progress: { committed: from, position: String(from) } },
    });
    expect(stream.stats.committed).toBe(from);
    await pipeline(Readable.from(numbered(ROWS - from, from)), taken);
    await expectWhole(s);
    expect(await s.sluice.admin.getStream(NAME)).toMatchObject({ run: 2 });
  },
);

test('runs that fence one another all the time get there in the end, and double nothing', async () => {
  const s = await scenario();
  let fenced = 0;
  const endless = async (producer: Producer) => {
    for (;;) {
      try {
        return await finish(producer);
      } catch (error) {
        expect(error).toMatchObject({ code: 'STREAM_FENCED' });
        fenced++;
        // Let the other one come some way.
        const before = (await s.sluice.admin.getStream(NAME))!.rows;
        await eventually('it moves', async () => {
          const { rows } = (await s.sluice.admin.getStream(NAME))!;
          return rows === ROWS || rows >= before + 150;
        });
      }
    }
  };
  const producers = [await s.producer(), await s.producer(), await s.producer()];
  await Promise.all(producers.map(endless));
  expect(fenced).toBeGreaterThan(2);
  await expectWhole(s);
});

test('a process that is stopped in the middle of a batch and wakes up after its successor is fenced', async () => {
  const s = await scenario();
  // The server keeps the eighth batch waiting in its transaction, so that the process is stopped within one.
  await s.pool.query(`
    create function ${s.schema}.stay() returns trigger language plpgsql as $$
    begin
      perform pg_advisory_xact_lock_shared(hashtext('${s.schema}'));
      return new;
    end $$;
    create trigger stay before insert on ${s.schema}.pgqrs_messages for each row
      when ((new.payload->>'n')::int = 375) execute function ${s.schema}.stay()`);
  const client = await s.pool.connect();
  await client.query(`select pg_advisory_lock(hashtext('${s.schema}'))`);
  const child = startChild(
    'child-ingest.ts',
    s.url,
    s.schema,
    NAME,
    JSON.stringify({ rows: ROWS, batchSize: 50 }),
  );
  child.process.send('go');
  await eventually(
    'the eighth batch',
    async () => {
      const { rows } = await s.pool.query<{ rows: number; waiting: number }>(
        `select (select rows::int from ${s.schema}.sluice_streams) as rows,
         (select count(*)::int from pg_locks where locktype = 'advisory' and not granted
            and objid::bigint = hashtext('${s.schema}')::bigint & 4294967295) as waiting`,
      );
      return rows[0]!.rows === 350 && rows[0]!.waiting > 0;
    },
    20_000,
  );
  child.process.kill('SIGSTOP');
  await client.query(`select pg_advisory_unlock(hashtext('${s.schema}'))`);
  client.release();

  const producer = await s.producer();
  await finish(producer);
  child.process.kill('SIGCONT');
  expect(await child.next()).toMatchObject({
    failed: 'STREAM_FENCED',
    progress: { committed: 350, position: '350' },
  });
  await expectWhole(s);
});

test.each([
  ['before the server has it', asksToCommit],
  ['when the server has done it', saysCommitted],
])(
  'a COMMIT of the first run on the wire, %s, is in or is not, and the new run goes on from there',
  async (_when, moment) => {
    const s = await behindProxy();
    let held: { link: Link; data: Buffer } | undefined;
    let seen = 0;
    s.proxy.judge = (bytes) => {
      if (held || !moment(bytes) || ++seen !== 6) return 'pass';
      held = bytes;
      return 'drop';
    };
    const first = s.through.writable({ ...BATCH, concurrency: 1, batchTimeoutMs: 20_000 });
    const events = counted(first);
    const endless = pipeline(Readable.from(numbered(1_000_000)), first).catch(() => undefined);
    await eventually('a COMMIT on the wire', () => held);

    const second = (await s.producer()).writable(BATCH);
    const from = Number(await second.resumeFrom);
    expect(from).toBe(moment === saysCommitted ? 300 : 250);
    // The COMMIT arrives, at last.
    if (moment === asksToCommit) {
      const answer = (await held!.link.ask(held!.data)).toString();
      expect(answer).toContain('SLS01');
      expect(answer).not.toContain('COMMIT\0');
    }
    held!.link.cut();
    await closed(first);
    await endless;
    expect(events).toMatchObject({ finish: 0, error: 1, reason: { code: 'STREAM_FENCED' } });
    // The new run has not moved yet, so the ledger still knows.
    expect(events.reason?.progress).toEqual({ committed: from, position: String(from) });
    await pipeline(Readable.from(numbered(ROWS - from, from)), second);
    await expectWhole(s);
  },
);

test('what became of its last batch is in doubt for a run when the next one has moved on', async () => {
  const s = await behindProxy();
  let held: Link | undefined;
  let seen = 0;
  s.proxy.judge = (bytes) => {
    if (held || !saysCommitted(bytes) || ++seen !== 6) return 'pass';
    held = bytes.link;
    return 'drop';
  };
  const first = s.through.writable({ ...BATCH, concurrency: 1, batchTimeoutMs: 20_000 });
  const events = counted(first);
  const endless = pipeline(Readable.from(numbered(1_000_000)), first).catch(() => undefined);
  await eventually('a COMMIT on the wire', () => held);
  await finish(await s.producer());
  held!.cut();
  await closed(first);
  await endless;
  expect(events.reason).toMatchObject({ code: 'STREAM_FENCED' });
  expect(events.reason?.progress).toEqual({ committed: 250, position: '250', inDoubt: true });
  await expectWhole(s);
});

test('a run whose stream is deleted ends; started again it begins at the beginning', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const stream = producer.writable(BATCH);
  const events = counted(stream);
  const endless = pipeline(Readable.from(numbered(1_000_000)), stream).catch(() => undefined);
  await eventually('some batches', () => stream.stats.batches >= 5);
  expect(await s.sluice.admin.deleteStream(NAME)).toBe(true);
  expect(await s.sluice.admin.deleteStream(NAME)).toBe(false);
  // A stream of the same name is another one.
  const again = producer.writable(BATCH);
  expect(await again.resumeFrom).toBeUndefined();
  await closed(stream);
  await endless;
  const committed = await s.count();
  expect(events).toMatchObject({ finish: 0, error: 1, close: 1 });
  expect(events.reason).toMatchObject({ code: 'STREAM_NOT_FOUND', stream: NAME });
  expect(events.reason?.progress).toEqual({ committed, position: String(committed) });
  await pipeline(Readable.from(numbered(100)), again);
  expect(await s.count()).toBe(committed + 100);
  await s.sluice.admin.deleteStream(NAME);
  await expectNothingLeft(s);
});
