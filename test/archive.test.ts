import { expect, test } from 'vitest';
import { Archive } from '../src/archive.js';
import { InvalidOptionError, QueueNotFoundError } from '../src/index.js';
import { failures, put, putDead, referTo } from './support/dead-messages.js';
import { explained } from './support/explained.js';
import { numbered, scenario, type Scenario } from './support/scenario.js';
import { spied } from './support/spied.js';

const putDone = (here: Pick<Scenario, 'pool' | 'schema' | 'queue'>, count: number, age = `interval '0'`) =>
  put(here, { count, columns: { archived_at: `now() - (${age})` } });

test('the archive has what was done, the highest ids first, page by page; dead letters are not in it', async () => {
  const here = await scenario();
  await (await here.producer()).ingest(numbered(2));
  const consumer = await here.consumer();
  const [one, two] = await consumer.dequeueMany(2);
  await one!.archive();
  await two!.archive();
  await putDead(here, 2);
  await putDone({ ...here, queue: await here.sluice.admin.createQueue('other') }, 1);
  const [old] = await putDone(here, 1, `interval '1 hour'`);
  const archive = here.sluice.admin.archive('work');
  expect(await archive.count()).toBe(3);
  const first = await archive.list({ limit: 2 });
  expect(first.messages).toEqual([
    await here.sluice.admin.getMessage(old!),
    await here.sluice.admin.getMessage(two!.id),
  ]);
  await putDone(here, 1); // newer: not on a later page
  await archive.delete(two!.id);
  const second = await archive.list({ limit: 2, cursor: first.cursor });
  expect(second.messages.map(({ id }) => id)).toEqual([one!.id]);
  expect(second.cursor).toBeUndefined();
  const archivedAfter = second.messages[0]!.archivedAt!;
  expect((await archive.list({ archivedBefore: archivedAfter })).messages.map(({ id }) => id)).toEqual([old]);
  expect(await archive.count({ archivedAfter })).toBe(2);
  expect(await archive.count({ archivedBefore: archivedAfter })).toBe(1);
});

test('the pages together show all that is meant, however little of the table that is', async () => {
  const here = await scenario();
  const queue = await here.sluice.admin.createQueue('other');
  const first = await putDone(here, 5);
  await putDone({ ...here, queue }, 210_000);
  const last = await putDone(here, 5);
  const archive = here.sluice.admin.archive('work');
  const pages: string[][] = [];
  let cursor: string | undefined;
  do {
    const page = await archive.list({ limit: 5, cursor });
    pages.push(page.messages.map(({ id }) => id));
    cursor = page.cursor;
  } while (cursor);
  expect(pages).toEqual([last.toReversed(), [], first.toReversed()]);
}, 120_000);

test('a page of a long archive reads a small part of the table, the first one and those after it', async () => {
  const here = await scenario();
  await putDone(here, 150_000);
  const { pool, schema } = here;
  await pool.query(`vacuum analyze ${schema}.pgqrs_messages`);
  const { rows } = await pool.query<{ pages: number }>(
    `select relpages as pages from pg_class where oid = '${schema}.pgqrs_messages'::regclass`,
  );
  const { db, read } = explained(here);
  const archive = new Archive(db, () => Promise.resolve(here.queue));
  let cursor: string | undefined;
  for (const limit of [50, 50, 1_000]) {
    read.buffers = 0;
    const page = await archive.list({ limit, cursor });
    expect(page.messages).toHaveLength(limit);
    expect(read.buffers).toBeLessThan(rows[0]!.pages / 5 + 4 * limit);
    cursor = page.cursor;
  }
}, 120_000);

test('a purge deletes what was done that long ago, and neither dead letters nor what is in the queue', async () => {
  const here = await scenario();
  const dead = await putDead(here, 3, { age: `interval '1 day'` });
  await putDone(here, 4, `interval '1 hour'`);
  await putDone(here, 2);
  await put(here, { count: 1 });
  const archive = here.sluice.admin.archive('work');
  expect(await archive.purge({ olderThanSeconds: 7_200 })).toBe(0);
  expect(await archive.purge({ olderThanSeconds: 1_800 })).toBe(4);
  expect(await archive.count()).toBe(2);
  expect(await archive.purge({ all: true })).toBe(2);
  expect(await here.count()).toBe(4);
  expect(await failures(here)).toEqual(dead);
});

test('a purge of many goes in chunks, passes over dead letters, and leaves alone what is archived meanwhile', async () => {
  const here = await scenario();
  await putDead(here, 12_000, { age: `interval '2 hours'` });
  await putDone(here, 30_000, `interval '1 hour'`);
  const { sluice, count, answered } = await spied(here);
  answered('purge_archive', async () => {
    await putDone(here, 10);
  });
  expect(await sluice.admin.archive('work').purge({ all: true })).toBe(30_000);
  expect(count('purge_archive')).toBe(5);
  expect(await sluice.admin.archive('work').count()).toBe(10);
  expect(await sluice.admin.deadLetters('work').count()).toBe(12_000);
}, 120_000);

test('two purges at once delete each message once', async () => {
  const here = await scenario();
  await putDone(here, 20_000);
  const archive = here.sluice.admin.archive('work');
  const [one, other] = await Promise.all([archive.purge({ all: true }), archive.purge({ all: true })]);
  expect(one + other + (await archive.purge({ all: true }))).toBe(20_000);
  expect(await here.count()).toBe(0);
});

test('what a workflow run refers to stays, and does not keep the rest', async () => {
  const here = await scenario();
  const [one, kept, three] = await putDone(here, 3);
  await referTo(here, kept!);
  const archive = here.sluice.admin.archive('work');
  expect(await archive.delete([one!, kept!])).toBe(1);
  expect(await archive.purge({ all: true })).toBe(1);
  expect(await here.sluice.admin.getMessage(three!)).toBeUndefined();
  expect((await archive.list()).messages.map(({ id }) => id)).toEqual([kept]);
});

test('by ids only what was done in this queue is deleted', async () => {
  const here = await scenario();
  const [done, another] = await putDone(here, 2);
  const [dead] = await putDead(here, 1);
  const [active] = await put(here, { count: 1 });
  const [other] = await putDone({ ...here, queue: await here.sluice.admin.createQueue('other') }, 1);
  const archive = here.sluice.admin.archive('work');
  expect(await archive.delete([done!, done!, dead!, active!, other!, '999999'])).toBe(1);
  expect(await archive.delete(another!)).toBe(1);
  expect(await archive.delete([])).toBe(0);
  expect(await here.count()).toBe(3);
});

test('an unknown queue and options that break a rule are refused', async () => {
  const { sluice } = await scenario();
  const nowhere = sluice.admin.archive('nowhere');
  for (const call of [
    () => nowhere.list(),
    () => nowhere.count(),
    () => nowhere.purge({ all: true }),
    () => nowhere.delete('1'),
  ])
    await expect(call()).rejects.toThrow(QueueNotFoundError);
  const archive = sluice.admin.archive('work');
  for (const call of [
    () => archive.list({ limit: 1.5 }),
    () => archive.list({ cursor: '' }),
    () => archive.count({ archivedAfter: 'now' as never }),
    () => archive.purge({ olderThanSeconds: -1 }),
    () => archive.delete(['x']),
  ])
    await expect(call()).rejects.toThrow(InvalidOptionError);
});
