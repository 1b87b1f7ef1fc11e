import { expect, test } from 'vitest';
import { ActiveMessages } from '../src/active-messages.js';
import {
  type ActiveMessage,
  type ActiveState,
  connect,
  type Id,
  InvalidOptionError,
  type ListActiveOptions,
  QueueNotFoundError,
} from '../src/index.js';
import { put, putDead } from './support/dead-messages.js';
import { explained } from './support/explained.js';
import { scenario, type Scenario } from './support/scenario.js';

const idsOf = (messages: readonly { id: Id }[]) => messages.map(({ id }) => id);

/** All pages. */
async function pagesOf(active: ActiveMessages, options: ListActiveOptions): Promise<Id[][]> {
  const pages: Id[][] = [];
  let cursor: string | undefined;
  do {
    const page = await active.list({ ...options, cursor });
    pages.push(idsOf(page.messages));
    cursor = page.cursor;
  } while (cursor !== undefined);
  return pages;
}

/** As the index has them, read by the driver alone. */
async function inOrder({ pool, schema, queue }: Scenario): Promise<Id[]> {
  const { rows } = await pool.query<{ id: Id }>(
    `select id::text from ${schema}.pgqrs_messages where queue_id = $1 and archived_at is null order by vt, id`,
    [queue.id],
  );
  return idsOf(rows);
}

/** Some messages in each state, and others that are no business of the list's. */
async function everyState(here: Scenario): Promise<Record<ActiveState, Id[]>> {
  const producer = await here.producer();
  const consumer = await here.consumer();
  const foreign = await foreignWorker(here);
  const leased = idsOf(await producer.batchEnqueue([1, 2]));
  expect(await consumer.dequeueMany(2, { lockSeconds: 600 })).toHaveLength(2);
  const held = { consumer_worker_id: foreign, vt: `now() - interval '1 hour'` };
  leased.push(...(await put(here, { count: 1, columns: held })));
  const exhausted = await put(here, { count: 2, columns: { read_ct: '5' } });
  const ready = await put(here, { count: 3, columns: { vt: `now() - g * interval '1 minute'` } });
  // An expired lease of ours has ended.
  const expired = { consumer_worker_id: consumer.workerId, vt: `now() - interval '1 day'`, read_ct: '1' };
  ready.push(...(await put(here, { count: 1, columns: expired })));
  const delayed = idsOf(await producer.batchEnqueue([3, 4], { delaySeconds: 60 }));
  delayed.push((await producer.enqueue(5, { at: new Date(8.64e15) })).id);
  delayed.push(...(await put(here, { count: 2, columns: { vt: `'infinity'` } })));
  await putDead(here, 2);
  await put(here, { count: 2, columns: { archived_at: 'now()' } });
  await put({ ...here, queue: await here.sluice.admin.createQueue('other') }, { count: 2 });
  return { ready, delayed, leased, exhausted };
}

async function foreignWorker({ pool, schema, queue }: Scenario): Promise<Id> {
  const { rows } = await pool.query<{ id: Id }>(
    `insert into ${schema}.pgqrs_workers (name, queue_id) values ('theirs', ${queue.id}) returning id::text`,
  );
  return rows[0]!.id;
}

test.each([1, 2, 3, 100])(
  'the list has what is not archived, in the order of delivery: pages of %i',
  async (limit) => {
    const here = await scenario();
    const states = await everyState(here);
    const active = here.sluice.admin.messages('work');
    const all = await inOrder(here);
    expect(all).toHaveLength(Object.values(states).flat().length);
    const pages = await pagesOf(active, { limit });
    expect(pages.flat()).toEqual(all);
    expect(pages.every((page) => page.length <= limit)).toBe(true);
    expect(pages).toHaveLength(Math.ceil(all.length / limit));
    for (const state of ['ready', 'delayed', 'leased', 'exhausted'] as const) {
      const found = (await pagesOf(active, { limit, state })).flat();
      expect(found, state).toEqual(all.filter((id) => states[state].includes(id)));
    }
  },
);

test('each is as the table has it, with its state, and the counts are those of the metrics', async () => {
  const here = await scenario();
  const states = await everyState(here);
  const { admin } = here.sluice;
  const { messages, cursor } = await admin.messages('work').list<number>();
  expect(cursor).toBeUndefined();
  for (const message of messages) {
    const { state, ...stored }: ActiveMessage<number> = message;
    expect(stored).toEqual(await admin.getMessage(message.id));
    expect(states[state]).toContain(message.id);
  }
  const count = (state?: ActiveState) => admin.messages('work').count(state ? { state } : {});
  expect(await count()).toBe(messages.length);
  const { ready, delayed, leased, dead } = await admin.queueMetrics('work');
  expect({ ready, delayed, leased, dead: dead - 2 }).toEqual({
    ready: await count('ready'),
    delayed: await count('delayed'),
    leased: await count('leased'),
    dead: await count('exhausted'),
  });
});

test('maxReadCount is what the consumers have: the configuration’s, or the one that is given', async () => {
  const here = await scenario({ maxReadCount: 3 });
  const ids = await put(here, { count: 5, columns: { read_ct: 'g' } });
  const active = here.sluice.admin.messages('work');
  expect((await pagesOf(active, { state: 'exhausted' })).flat()).toEqual(ids.slice(2));
  expect((await pagesOf(active, { state: 'exhausted', maxReadCount: 5 })).flat()).toEqual(ids.slice(4));
  expect(await active.count({ state: 'ready', maxReadCount: 5 })).toBe(4);
});

test('messages without a time, which foreign clients hold, come last, page by page', async () => {
  const here = await scenario();
  const columns = { vt: 'null', consumer_worker_id: await foreignWorker(here) };
  const timeless = await put(here, { count: 5, columns });
  const others = await put(here, { count: 3 });
  const last = await put(here, { count: 2, columns: { vt: `'infinity'` } });
  const active = here.sluice.admin.messages('work');
  expect(await pagesOf(active, { limit: 4 })).toEqual([
    [...others, last[0]],
    [last[1], ...timeless.slice(0, 3)],
    timeless.slice(3),
  ]);
  expect(await pagesOf(active, { limit: 2, state: 'leased' })).toEqual([
    timeless.slice(0, 2),
    timeless.slice(2, 4),
    timeless.slice(4),
  ]);
});

test('cursors lead on from old and far times, whatever the session’s TimeZone', async () => {
  const here = await scenario();
  const times = [
    '-infinity',
    '0001-01-01 00:00:00+00',
    '1850-06-01 12:00:00+00',
    '9999-12-31',
    '120026-02-03 04:05:06.000007',
  ];
  const ids: Id[] = [];
  for (const time of times) ids.push(...(await put(here, { count: 2, columns: { vt: `'${time}'` } })));
  const url = new URL(here.url);
  url.searchParams.set('options', '-c timezone=Europe/Berlin -c datestyle=SQL,DMY');
  await using sluice = await connect(url.href, { schema: here.schema });
  expect(await pagesOf(sluice.admin.messages('work'), { limit: 1 })).toEqual(ids.map((id) => [id]));
});

test('a page reads its entries by the index, wherever it begins and however few are meant', async () => {
  const here = await scenario();
  const { pool, schema } = here;
  await put(here, { count: 100_000, columns: { vt: `now() - interval '1 day' + g * interval '1 ms'` } });
  await put(here, { count: 100_000, columns: { vt: `now() + interval '1 day' + g * interval '1 ms'` } });
  const [leased] = await put(here, {
    count: 1,
    columns: { vt: `now() + interval '1 hour'`, consumer_worker_id: (await here.consumer()).workerId },
  });
  await pool.query(`vacuum analyze ${schema}.pgqrs_messages`);
  const { db, read } = explained(here);
  const active = new ActiveMessages(db, () => Promise.resolve(here.queue), 5);
  for (const state of [undefined, 'ready', 'delayed'] as const) {
    let cursor: string | undefined;
    for (const limit of [50, 50, 1_000]) {
      read.buffers = 0;
      const page = await active.list({ limit, cursor, ...(state && { state }) });
      expect(page.messages).toHaveLength(limit);
      expect(read.buffers, String(state)).toBeLessThan(8 * limit + 100);
      cursor = page.cursor;
    }
  }
  // Nothing is exhausted, and one is leased: a page ends after its 100,000 entries.
  expect(await pagesOf(active, { state: 'leased' })).toEqual([[], [leased], []]);
  expect(await pagesOf(active, { state: 'exhausted' })).toEqual([[], [], []]);
  // What is not due yet is no business of who asks for what is ready.
  const { cursor } = await active.list({ state: 'delayed', limit: 1 });
  read.buffers = 0;
  expect(await active.list({ state: 'ready', cursor })).toEqual({ messages: [], cursor: undefined });
  expect(read.buffers).toBeLessThan(50);
  expect(read.scanned.filter((table) => table === 'pgqrs_messages')).toEqual([]);
}, 120_000);

test.each<[string, object]>([
  ['limit', { limit: 0 }],
  ['limit', { limit: 10_001 }],
  ['limit', { limit: 1.5 }],
  ['state', { state: 'dead' }],
  ['state', { state: 'archived' }],
  ['state', { state: ['ready'] }],
  ['state', { state: null }],
  ['maxReadCount', { maxReadCount: 0 }],
  ['cursor', { cursor: '' }],
  ['cursor', { cursor: '7' }],
  ['cursor', { cursor: 7 }],
  ['cursor', { cursor: 'none~' }],
  ['cursor', { cursor: `none~${2n ** 63n}` }],
  ['cursor', { cursor: '2026-13-01T00:00:00+00:00~1' }],
  ['cursor', { cursor: '120026-02-30T25:00:00+00:00~1' }],
  ['cursor', { cursor: `infinity~${'9'.repeat(19)}` }],
  ['option of messages.list()', { after: '7' }],
])('a bad %s is refused: %o', async (field, options) => {
  const { sluice } = await scenario();
  const listing = sluice.admin.messages('work').list(options);
  await expect(listing).rejects.toBeInstanceOf(InvalidOptionError);
  await expect(listing).rejects.toMatchObject({ code: 'INVALID_OPTION', field });
});

test('an unknown queue is told, by a call that asks; a bad name at once', async () => {
  const { sluice } = await scenario();
  const nowhere = sluice.admin.messages('nowhere');
  await expect(nowhere.list()).rejects.toThrow(QueueNotFoundError);
  await expect(nowhere.count()).rejects.toThrow(QueueNotFoundError);
  expect(() => sluice.admin.messages(7 as never)).toThrow(InvalidOptionError);
  await expect(sluice.admin.messages('work').count({ limit: 1 } as never)).rejects.toThrow(
    InvalidOptionError,
  );
});
