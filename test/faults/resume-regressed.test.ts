import { once } from 'node:events';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import type { Producer, Resume } from '../../src/index.js';
import { closed, counted, expectNothingLeft, numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { numbered, scenario, type Scenario } from '../support/scenario.js';

interface Item {
  n: number;
}

const NAME = 'load';
const BATCH = { batchSize: 50, lingerMs: 5, concurrency: 2 };
const ROWS = 3_000;
/** Behind item n the source is at (n + 1) * 10. */
const byOffset: Resume<Item> = { name: NAME, position: ({ n }) => (n + 1) * 10 };

/**
 * The server as it was when `rows` rows of this run were in: as after an asynchronous fail-over, whose new primary had
 * not heard of the rest.
 */
async function loseCommits(
  { pool, schema }: Scenario,
  rows: number,
  seq = rows / BATCH.batchSize,
): Promise<void> {
  // One message, and so one transaction.
  await pool.query(`
    update ${schema}.sluice_streams set seq = ${seq}, rows = ${rows}, position = '${rows * 10 || ''}';
    delete from ${schema}.pgqrs_messages where (payload->>'n')::int >= ${rows}`);
}

/** A stream in the middle of its source, with some batches committed. */
async function loading(s: Scenario, producer: Producer) {
  const stream = producer.writable<Item>({ ...BATCH, resume: byOffset });
  const events = counted(stream);
  const loaded = pipeline(Readable.from(numbered(1_000_000)), stream).catch(() => undefined);
  await eventually('some batches', () => stream.stats.batches >= 8);
  return { stream, events, loaded };
}

test('a stream whose commits are lost says from where to go on, and how much of it is still in', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const { stream, events, loaded } = await loading(s, producer);
  await loseCommits(s, 250);
  await closed(stream);
  await loaded;
  expect(events).toMatchObject({ finish: 0, error: 1, close: 1 });
  expect(events.reason).toMatchObject({ code: 'STREAM_REGRESSED', stream: NAME, position: '2500' });
  expect(events.reason?.progress).toEqual({ committed: 250, position: '2500' });
  expect(stream.stats).toMatchObject({ committed: 250, position: '2500' });

  const again = producer.writable<Item>({ ...BATCH, resume: byOffset });
  expect(await again.resumeFrom).toBe('2500');
  await pipeline(Readable.from(numbered(50, 250)), again);
  expect(await s.delivered()).toEqual(numbers(300));
});

test.each([
  ['some of this run', 1, 200],
  ['all of this run', 0, 150],
  ['this run, and some of the one before', -1, 100],
  ['everything', -2, 0],
])('when the server has lost %s, the stream regresses, as far as that', async (_what, run, rows) => {
  const s = await scenario();
  const producer = await s.producer();
  await producer.ingest([...numbered(150)], { ...BATCH, batchSize: 50, resume: byOffset });
  const stream = producer.writable<Item>({ ...BATCH, resume: byOffset });
  const events = counted(stream);
  for (const item of numbered(200, 150)) stream.write(item);
  await eventually('four batches', () => stream.stats.batches === 4);
  await loseCommits(s, rows, run === 1 ? 1 : run === 0 ? 0 : rows / 50);
  // The start of this run is lost as well.
  if (run < 0) await s.pool.query(`update ${s.schema}.sluice_streams set epoch = epoch - 1`);
  for (const item of numbered(50, 350)) stream.write(item);
  await closed(stream);
  const position = String(rows * 10 || '');
  expect(events.reason).toMatchObject({ code: 'STREAM_REGRESSED', position });
  expect(events.reason?.progress).toEqual({ committed: Math.max(0, rows - 150), position });
  const again = producer.writable<Item>({ ...BATCH, resume: byOffset });
  expect(await again.resumeFrom).toBe(position || undefined);
  again.end();
  await once(again, 'close');
});

test.each([1, 2, 5])(
  'ingest() of a source that can be opened again survives it %i times, and ends with the whole',
  async (times) => {
    const s = await scenario();
    const producer = await s.producer();
    const opened: (string | undefined)[] = [];
    let closings = 0;
    let lose: ((n: number) => Promise<void>) | undefined = async (n) => {
      const { rows, batches } = (await s.sluice.admin.getStream(NAME))!;
      // In the first run all of it is lost, later ones go back by five batches.
      if (rows < 400 + 100 * opened.length || batches < 6) return;
      await loseCommits(s, opened.length === 1 ? 0 : rows - 250, opened.length === 1 ? 0 : batches - 5);
      if (opened.length === times) lose = undefined;
      expect(n).toBeGreaterThan(0);
    };
    async function* source(position: string | undefined): AsyncGenerator<Item> {
      opened.push(position);
      const run = opened.length;
      try {
        for (const item of numbered(ROWS - Number(position ?? 0) / 10, Number(position ?? 0) / 10)) {
          // Only once for each time it is opened.
          if (item.n % 50 === 0 && opened.length === run && run <= times) await lose?.(item.n);
          yield item;
        }
      } finally {
        closings++;
      }
    }
    const summary = await within(40_000, 'the load', producer.ingest(source, { ...BATCH, resume: byOffset }));
    expect(opened).toHaveLength(times + 1);
    expect(opened.slice(0, 2)).toEqual([undefined, undefined]);
    expect(summary).toMatchObject({ position: String(ROWS * 10) });
    expect(await s.delivered()).toEqual(numbers(ROWS));
    expect(await s.sluice.admin.getStream(NAME)).toMatchObject({ rows: ROWS, run: times + 1 });
    await eventually('every source to be closed', () => closings === times + 1);
    await s.sluice.admin.deleteStream(NAME);
    await expectNothingLeft(s);
  },
);

test('ingest() of anything else, and of a stream without a name, fails with the position', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const losing = async function* () {
    for (const item of numbered(1_000)) {
      if (item.n === 600) await loseCommits(s, 100, 2);
      yield item;
    }
  };
  const failed = { code: 'STREAM_REGRESSED', position: '1000' };
  await expect(producer.ingest(losing(), { ...BATCH, resume: byOffset })).rejects.toMatchObject(failed);
  await s.sluice.admin.deleteStream(NAME);
  await s.sluice.admin.purgeQueue('work');
  await expect(producer.ingest(() => losing(), BATCH)).rejects.toMatchObject(failed);
});
