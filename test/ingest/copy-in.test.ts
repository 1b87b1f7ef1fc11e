import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { copyIn } from '../../src/copy-in.js';
import { databaseUrl } from '../support/database.js';
import { within } from '../support/eventually.js';

async function tableOfOne() {
  const client = new pg.Client(databaseUrl());
  client.on('error', () => undefined);
  await client.connect();
  onTestFinished(() => client.end());
  await client.query('create temp table small (n int check (n < 1000), text text)');
  return client;
}

test('chunks are sent as they are taken, and the rows counted', async () => {
  const client = await tableOfOne();
  const chunks = ['1\ta\n2\t', 'b\n', '3\tc\n'].map((chunk) => Buffer.from(chunk));
  expect(await copyIn(client, 'copy small from stdin', chunks)).toBe(3);
  const { rows } = await client.query<{ text: string }>('select text from small order by n');
  expect(rows.map(({ text }) => text)).toEqual(['a', 'b', 'c']);
});

test('after an error no chunk is taken any more, and the rest of the client’s life is quiet', async () => {
  const client = await tableOfOne();
  let taken = 0;
  const chunk = Buffer.from(`1\t${'x'.repeat(500_000)}\n`);
  const chunks = function* () {
    yield Buffer.from('1000\trefused\n');
    for (; taken < 1_000; taken++) yield chunk;
  };
  const copied = copyIn(client, 'copy small from stdin', chunks());
  await expect(within(10_000, 'the error', copied)).rejects.toMatchObject({ code: '23514' });
  const before = taken;
  // The socket drains what was written before the error.
  await within(10_000, 'the next answer', client.query('select 1'));
  expect(taken).toBe(before);
  expect(taken).toBeLessThan(1_000);
});

test('a statement that is refused at once rejects, whatever the size of the first chunk', async () => {
  const client = await tableOfOne();
  const chunks = [Buffer.alloc(1_000_000, 'x'), Buffer.alloc(1_000_000, 'x')];
  await expect(copyIn(client, 'copy missing from stdin', chunks)).rejects.toMatchObject({ code: '42P01' });
});
