import { once } from 'node:events';
import { expect, test } from 'vitest';
import { connect, InvalidOptionError, type Resume } from '../../src/index.js';
import { eventually } from '../support/eventually.js';
import { numbered, scenario, type Scenario } from '../support/scenario.js';
import { silence } from '../support/worker-rows.js';
import { closed, counted, numbers } from './support.js';

const BATCH = { batchSize: 100, concurrency: 1 };

test.each<[string, unknown, string]>([
  ['empty', '', 'resume.name'],
  ['with a NUL', 'a\0b', 'resume.name'],
  ['of 256 bytes', 'x'.repeat(256), 'resume.name'],
  ['of 128 characters with 256 bytes', 'ö'.repeat(128), 'resume.name'],
  ['as if it were anonymous', 'anonymous-1', 'resume.name'],
  ['missing', {}, 'resume.name'],
  ['a number', { name: 1 }, 'resume.name'],
  ['null', null, 'resume'],
  ['a number, alone', 5, 'resume'],
  ['with a position that is no function', { name: 'a', position: 'offset' }, 'resume.position'],
])('a name that is %s is refused at once, by ingest() too', async (_kind, resume, field) => {
  const { sluice, producer } = await scenario();
  const options = { resume: resume as Resume<unknown> };
  const running = await producer();
  const refused: unknown[] = [];
  expect(() => running.writable(options)).toThrow(InvalidOptionError);
  await running.ingest([], options).catch((error: unknown) => refused.push(error));
  expect(refused).toMatchObject([{ code: 'INVALID_OPTION', field }]);
  expect(await sluice.admin.listStreams()).toEqual([]);
});

test.each([
  ['255 bytes', `${'ö'.repeat(127)}x`],
  ['unicode and quotes', `Bestellungen 2026 — "über" 'alles' \\ 🚚; drop table x`],
  ['spaces', ' '],
])('a name with %s works', async (_kind, name) => {
  const { sluice, producer, delivered } = await scenario();
  const running = await producer();
  for (const count of [150, 300]) await running.ingest([...numbered(count)], { ...BATCH, resume: name });
  expect(await delivered()).toEqual(numbers(300));
  expect(await sluice.admin.getStream(name)).toMatchObject({ name, position: '300', run: 2 });
});

test('names are told apart exactly: by case and by how they are composed', async () => {
  const { sluice, producer } = await scenario();
  const running = await producer();
  const names = ['load', 'Load', 'load ', 'é', 'e\u0301'];
  for (const [n, resume] of names.entries()) await running.ingest([...numbered(n + 1)], { resume });
  const streams = await sluice.admin.listStreams();
  expect(streams.map(({ name, rows }) => [name, rows]).reverse()).toEqual(
    names.map((name, n) => [name, n + 1]),
  );
});

test('the name of a stream into another queue is refused, and that stream is left alone', async () => {
  const { sluice, producer, count, pool, schema } = await scenario();
  await sluice.admin.createQueue('other');
  const first = (await producer()).writable({ ...BATCH, resume: 'load' });
  for (const item of numbered(100)) first.write(item);
  await eventually('a batch', () => first.stats.batches === 1);

  const elsewhere = await sluice.producer('other');
  const stream = elsewhere.writable({ resume: 'load' });
  const events = counted(stream);
  await expect(stream.resumeFrom).rejects.toMatchObject({ code: 'INVALID_OPTION', field: 'resume.name' });
  await closed(stream);
  expect(events).toMatchObject({ finish: 0, error: 1, close: 1, reason: { code: 'INVALID_OPTION' } });
  await expect(elsewhere.ingest(numbered(5), { resume: 'load' })).rejects.toMatchObject({
    code: 'INVALID_OPTION',
  });

  // It was not fenced.
  for (const item of numbered(100, 100)) first.write(item);
  first.end();
  await once(first, 'close');
  expect(first.errored).toBeNull();
  expect(await count()).toBe(200);
  const { rows } = await pool.query(
    `select count(*)::int as n from ${schema}.sluice_streams where epoch = 1`,
  );
  expect(rows).toEqual([{ n: 1 }]);
});

/** Ways in which who ran a stream goes, for good. */
const ENDS: Record<string, (s: Scenario, workerId: string) => Promise<unknown>> = {
  'its worker is shut down and deleted': async ({ sluice, pool, schema }, workerId) => {
    await pool.query(`update ${schema}.pgqrs_messages set producer_worker_id = null`);
    expect(await sluice.admin.deleteWorker(workerId)).toBe(true);
  },
  'its worker is silent for days, and others register': async (s, workerId) => {
    await silence(s, workerId, 200_000);
    await s.producer();
  },
};

test.each(Object.keys(ENDS))('the place of a stream outlives its producer: %s', async (end) => {
  const s = await scenario();
  const one = await connect({ dsn: s.url, schema: s.schema });
  const producer = await one.producer('work');
  await producer.ingest([...numbered(100)], { resume: 'load' });
  // Beside it a stream without a name, whose place does not.
  const anonymous = producer.writable();
  anonymous.on('error', () => undefined);
  expect(await anonymous.resumeFrom).toBeUndefined();
  expect(await s.sluice.admin.listStreams()).toHaveLength(2);
  await producer.close();
  await one.close();
  await ENDS[end]!(s, producer.workerId);

  const [row, ...others] = await s.sluice.admin.listStreams();
  expect(others).toEqual([]);
  expect(row).toMatchObject({ name: 'load', rows: 100, position: '100', resumable: true });
  expect(await (await s.producer()).ingest([...numbered(180)], { resume: 'load' })).toMatchObject({
    committed: 80,
  });
  expect(await s.delivered()).toEqual(numbers(180));
});
