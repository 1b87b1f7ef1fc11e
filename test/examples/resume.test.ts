import { appendFile, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { ingestOrders } from '../../examples/resume/array.js';
import { ingestFile } from '../../examples/resume/file-by-byte-offset.js';
import { ingestLines } from '../../examples/resume/file-by-line.js';
import { ingestTable } from '../../examples/resume/keyset-query.js';
import type { IngestSummary } from '../../src/index.js';
import { numbers } from '../ingest/support.js';
import { numbered, scenario, type Scenario } from '../support/scenario.js';

/** More than a few chunks of a file, with characters of several bytes. */
const ROWS = 12_000;

async function file(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-resume-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  return join(folder, 'source');
}

/** Payloads in the order of delivery. */
async function payloads({ pool, schema }: Scenario): Promise<unknown[]> {
  const { rows } = await pool.query<{ payload: unknown }>(
    `select payload from ${schema}.pgqrs_messages order by vt, id`,
  );
  return rows.map(({ payload }) => payload);
}

/** Runs it over a source that breaks off in the middle, and over the whole. @returns what the runs committed */
async function twice(
  broken: () => Promise<IngestSummary>,
  whole: () => Promise<IngestSummary>,
): Promise<number[]> {
  const runs = [await broken(), await whole(), await whole()];
  expect(runs[2]).toMatchObject({ accepted: 0, committed: 0 });
  return runs.map(({ committed }) => committed);
}

test('an array: orders that are in the queue are not sent again', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const orders = [...numbered(300)];
  const committed = await twice(
    () => ingestOrders(producer, orders.slice(0, 120)),
    () => ingestOrders(producer, orders),
  );
  expect(committed).toEqual([120, 180, 0]);
  expect(await payloads(s)).toEqual(orders);
});

test('a file by line: lines that are in the queue are not sent again', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const path = await file();
  const lines = numbers(ROWS).map((n) => `line ${n} ✓`);
  await writeFile(path, lines.slice(0, 7_000).join('\r\n'));
  const committed = await twice(
    () => ingestLines(producer, path),
    async () => (await writeFile(path, lines.join('\n')), ingestLines(producer, path)),
  );
  expect(committed).toEqual([7_000, 5_000, 0]);
  expect(await payloads(s)).toEqual(lines);
});

test('a file by byte offset: it goes on behind the last whole line, and reads nothing before it', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const path = await file();
  const items = [...numbered(ROWS)];
  const text = items.map((item) => `${JSON.stringify(item)}\n`);
  const head = text.slice(0, 7_000).join('');
  // The writer is in the middle of a line.
  await writeFile(path, `${head}${text[7_000]!.slice(0, 20)}`);
  const [first, ...more] = await twice(
    () => ingestFile(producer, path),
    async () => {
      await writeFile(path, 'x'.repeat(Buffer.byteLength(head)));
      await appendFile(path, text.slice(7_000).join(''));
      return ingestFile(producer, path);
    },
  );
  expect([first, ...more]).toEqual([7_000, 5_000, 0]);
  expect(await payloads(s)).toEqual(items);
  const size = Buffer.byteLength(text.join(''));
  expect(await s.sluice.admin.getStream(`file ${path}`)).toMatchObject({
    position: String(size),
    rows: ROWS,
  });
  // Nothing there but blank space: it does not complain, since it has nothing to read behind its place.
  await truncate(path, size);
  expect(await ingestFile(producer, path)).toMatchObject({ committed: 0 });
});

test('a query by key: it takes the rows that are new', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const pool = new pg.Pool({ connectionString: s.url, options: `-c search_path=${s.schema}`, max: 1 });
  onTestFinished(() => pool.end());
  await pool.query('create table orders (id bigint generated always as identity, customer text not null)');
  const add = (count: number) =>
    pool.query(`insert into orders (customer) select 'customer ' || n from generate_series(1, $1) n`, [
      count,
    ]);
  const load = () => ingestTable(producer, pool);
  const committed: number[] = [];
  for (const added of [2_500, 700, 0]) {
    await add(added);
    committed.push((await load()).committed);
  }
  expect(committed).toEqual([2_500, 700, 0]);
  const { rows } = await pool.query('select id::text, customer from orders order by orders.id');
  expect(await payloads(s)).toEqual(rows);
});
