import { once } from 'node:events';
import { expect, test } from 'vitest';
import { connect } from '../../src/index.js';
import { eventually } from '../support/eventually.js';
import { numbered, scenario } from '../support/scenario.js';
import { silence } from '../support/worker-rows.js';
import { closed } from './support.js';

const BATCH = { batchSize: 50, concurrency: 1, lingerMs: 3_600_000 };

test('streams are listed as they are, those that moved last first, and each can be looked up', async () => {
  const { sluice, producer, pool } = await scenario();
  const { admin } = sluice;
  expect(await admin.listStreams()).toEqual([]);
  expect(await admin.getStream('load')).toBeUndefined();
  await admin.createQueue('other');
  const began = (await pool.query<{ now: Date }>('select clock_timestamp() as now')).rows[0]!.now;
  await (await sluice.producer('other')).ingest([...numbered(70)], { resume: 'elsewhere' });
  const stream = (await producer()).writable<{ n: number }>({
    ...BATCH,
    resume: { name: 'load', position: ({ n }) => `k${n}` },
  });
  await stream.resumeFrom;
  const untouched = {
    name: 'load',
    queue: 'work',
    resumable: true,
    run: 1,
    batches: 0,
    rows: 0,
    position: '',
  };
  expect(await admin.getStream('load')).toEqual({ ...untouched, updatedAt: expect.any(Date) as Date });

  for (const item of numbered(120)) stream.write(item);
  await eventually('two batches', () => stream.stats.batches === 2);
  const [first, second, ...more] = await admin.listStreams();
  expect(more).toEqual([]);
  expect(first).toEqual({
    ...untouched,
    batches: 2,
    rows: 100,
    position: 'k99',
    updatedAt: expect.any(Date) as Date,
  });
  expect(second).toMatchObject({
    name: 'elsewhere',
    queue: 'other',
    run: 1,
    batches: 1,
    rows: 70,
    position: '70',
  });
  expect(first!.updatedAt.getTime()).toBeGreaterThan(second!.updatedAt.getTime());
  expect(second!.updatedAt.getTime()).toBeGreaterThanOrEqual(began.getTime());
  expect(await admin.getStream('load')).toEqual(first);

  stream.end();
  await once(stream, 'close');
  expect(await admin.getStream('load')).toMatchObject({ run: 1, batches: 3, rows: 120, position: 'k119' });
  await (await producer()).ingest(() => [{ n: 120 }], { resume: { name: 'load', position: ({ n }) => n } });
  expect(await admin.getStream('load')).toMatchObject({ run: 2, batches: 1, rows: 121, position: '120' });
});

test('a stream without a name is listed while it is under way, and gone however it ends', async () => {
  const { sluice, producer } = await scenario();
  const { admin } = sluice;
  const running = await producer();
  for (const way of ['end', 'destroy', 'fail', 'close'] as const) {
    const stream = running.writable(BATCH);
    stream.on('error', () => undefined);
    for (const item of numbered(50)) stream.write(item);
    await eventually('a batch', () => stream.stats.batches === 1);
    const [row, ...more] = await admin.listStreams();
    expect(more).toEqual([]);
    expect(row).toMatchObject({
      queue: 'work',
      resumable: false,
      run: 1,
      batches: 1,
      rows: 50,
      position: '50',
    });
    expect(row?.name).toMatch(/^anonymous-[0-9a-f-]{36}$/);
    expect(await admin.getStream(row!.name)).toEqual(row);
    if (way === 'end') stream.end();
    if (way === 'destroy') stream.destroy();
    if (way === 'fail') stream.write({ n: 1n });
    if (way === 'close') await running.close();
    await closed(stream);
    expect(await admin.listStreams(), way).toEqual([]);
  }
});

test('streams without a name that a dead worker left are swept when somebody registers; those with one stay', async () => {
  const s = await scenario();
  const one = await connect({ dsn: s.url, schema: s.schema });
  const address = { hostname: 'host', port: 4_000 };
  const producer = await one.producer('work', address);
  const anonymous = producer.writable(BATCH);
  const named = producer.writable({ ...BATCH, resume: 'load' });
  for (const stream of [anonymous, named]) {
    stream.on('error', () => undefined);
    await stream.resumeFrom;
  }
  const names = async () => (await s.sluice.admin.listStreams()).map(({ name }) => name.slice(0, 9)).sort();
  // Its process is as good as dead, but may come back.
  await silence(s, producer.workerId, 80_000);
  await s.producer();
  expect(await names()).toEqual(['anonymous', 'load']);
  // Somebody takes the name over: it cannot.
  const successor = await s.producer(address);
  expect(successor.workerId).toBe(producer.workerId);
  await successor.close();
  await s.producer();
  expect(await names()).toEqual(['load']);

  // What was left of the dead one notices.
  for (const stream of [anonymous, named]) {
    for (const item of numbered(50)) stream.write(item);
    await closed(stream);
    expect(stream.errored).toMatchObject({ code: 'WORKER_FENCED' });
  }
  expect(await s.count()).toBe(0);
  await one.close();
});

test('streams without a name of a worker that was silent for days are swept', async () => {
  const s = await scenario();
  const one = await connect({ dsn: s.url, schema: s.schema });
  const producer = await one.producer('work');
  const stream = producer.writable(BATCH);
  stream.on('error', () => undefined);
  await stream.resumeFrom;
  await silence(s, producer.workerId, 90_000);
  await s.producer();
  expect(await s.sluice.admin.listStreams()).toEqual([]);
  for (const item of numbered(50)) stream.write(item);
  await closed(stream);
  expect(stream.errored).toMatchObject({
    code: 'STREAM_NOT_FOUND',
    progress: { committed: 0, position: '0' },
  });
  await one.close();
});

test('deleteStream() forgets a place, and only that', async () => {
  const { sluice, producer, count } = await scenario();
  const { admin } = sluice;
  const running = await producer();
  for (const resume of ['load', 'other']) await running.ingest([...numbered(10)], { resume });
  expect(await admin.deleteStream('load')).toBe(true);
  expect(await admin.deleteStream('load')).toBe(false);
  expect((await admin.listStreams()).map(({ name }) => name)).toEqual(['other']);
  expect(await count()).toBe(20);
  expect(await running.ingest([...numbered(10)], { resume: 'load' })).toMatchObject({ committed: 10 });
  expect(await admin.getStream('load')).toMatchObject({ run: 1, rows: 10 });
});

test('names that no stream can have are refused', async () => {
  const { sluice } = await scenario();
  for (const name of ['', 'a\0b', 1, undefined]) {
    await expect(sluice.admin.getStream(name as string)).rejects.toMatchObject({ code: 'INVALID_OPTION' });
    await expect(sluice.admin.deleteStream(name as string)).rejects.toMatchObject({ code: 'INVALID_OPTION' });
  }
});

test('a queue that is deleted takes its streams along', async () => {
  const { sluice, pool, schema } = await scenario();
  const { admin } = sluice;
  await admin.createQueue('other');
  const producer = await sluice.producer('other');
  await producer.ingest([...numbered(10)], { resume: 'load' });
  await producer.close();
  await admin.purgeQueue('other');
  await pool.query(`delete from ${schema}.pgqrs_workers where id = ${producer.workerId}`);
  await admin.deleteQueue('other');
  expect(await admin.listStreams()).toEqual([]);
});
