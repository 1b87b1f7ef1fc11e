import { expect, test } from 'vitest';
import { eventually } from '../support/eventually.js';
import { numbered, scenario } from '../support/scenario.js';
import { closed, counted, ledger, numbers } from './support.js';

/** A stream with three committed batches of 100 rows. */
async function threeBatches() {
  const test = await scenario();
  const stream = (await test.producer()).writable({ batchSize: 100 });
  const events = counted(stream);
  for (const item of numbered(300)) stream.write(item);
  await eventually('three batches', () => stream.stats.batches === 3);
  const goOn = async () => {
    for (const item of numbered(300, 300)) stream.write(item);
    await closed(stream);
    expect(events).toMatchObject({ finish: 0, close: 1, error: 1 });
    return events.reason!;
  };
  return { ...test, stream, goOn };
}

test('the ledger moves with each batch, and its row goes with the stream', async () => {
  const test = await threeBatches();
  expect(await ledger(test)).toMatchObject([{ seq: 3, position: '300' }]);
  test.stream.end();
  await closed(test.stream);
  expect(await ledger(test)).toEqual([]);
});

test('a ledger that lost commits ends the stream with the position to restart from', async () => {
  const { pool, schema, goOn, delivered } = await threeBatches();
  await pool.query(`update ${schema}.sluice_streams set seq = 1, position = '100'`);
  expect(await goOn()).toMatchObject({ code: 'STREAM_REGRESSED', position: '100' });
  expect(await delivered()).toEqual(numbers(300));
});

test('a stream that another run has taken over is fenced', async () => {
  const test = await threeBatches();
  const { pool, schema, goOn, delivered } = test;
  await pool.query(`update ${schema}.sluice_streams set epoch = epoch + 1`);
  expect(await goOn()).toMatchObject({
    code: 'STREAM_FENCED',
    progress: { committed: 300, position: '300' },
  });
  expect(await delivered()).toEqual(numbers(300));
});

test('a stream whose row was deleted ends', async () => {
  const { pool, schema, goOn, delivered } = await threeBatches();
  await pool.query(`delete from ${schema}.sluice_streams`);
  expect(await goOn()).toMatchObject({
    code: 'STREAM_NOT_FOUND',
    progress: { committed: 300, position: '300' },
  });
  expect(await delivered()).toEqual(numbers(300));
});

test('who takes a name over clears up after the process that had it, and leaves its own streams alone', async () => {
  const test = await scenario();
  const { pool, schema, producer } = test;
  const named = { hostname: 'ledger', port: 1 };
  const crashed = (await producer(named)).writable();
  counted(crashed);
  await crashed.resumeFrom;
  expect(await ledger(test)).toHaveLength(1);
  const takeOver = () =>
    eventually('the take-over', async () => {
      await pool.query(`update ${schema}.pgqrs_workers set heartbeat_at = now() - interval '1 hour'`);
      return producer(named).catch(() => undefined);
    });
  const next = (await takeOver()).writable();
  expect(await ledger(test)).toEqual([]);
  await next.resumeFrom;
  await producer({ hostname: 'ledger', port: 2 });
  expect(await ledger(test)).toHaveLength(1);
  next.end();
  await closed(next);
});
