import { expect, test } from 'vitest';
import {
  type DeadLetterFilter,
  type DeadLetters,
  type DeadMessage,
  InvalidOptionError,
  QueueNotFoundError,
} from '../src/index.js';
import { channelOf } from '../src/doorbell.js';
import { failures, put, putDead, referTo } from './support/dead-messages.js';
import { eventually } from './support/eventually.js';
import { scenario } from './support/scenario.js';
import { spied } from './support/spied.js';

/** All pages, one after the other. */
async function pages(dead: DeadLetters, limit: number, between = async () => {}): Promise<DeadMessage[][]> {
  const found: DeadMessage[][] = [];
  let cursor: string | undefined;
  do {
    const page = await dead.list({ limit, cursor });
    found.push(page.messages);
    cursor = page.cursor;
    await between();
  } while (cursor);
  return found;
}

const ids = (messages: { id: string }[]) => messages.map(({ id }) => id);

test('a dead letter is listed with its message, its reason, and when it died', async () => {
  const here = await scenario();
  const [id] = await putDead(here, 1, { reason: `'rejected'` });
  const { messages, cursor } = await here.sluice.admin.deadLetters('work').list<{ n: number }>();
  expect(cursor).toBeUndefined();
  const stored = await here.sluice.admin.getMessage(id!);
  expect(messages).toEqual([
    { ...stored, reason: 'rejected', lastError: 'boom 1', attempts: 5, deadAt: stored!.archivedAt },
  ]);
  expect(messages[0]!.payload.n).toBe(1);
});

test('what was done, what was brought back by pgqrs, and what is of another queue is no dead letter', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  await put(here, { count: 2, columns: { archived_at: 'now()' } });
  const [back] = await putDead(here, 1);
  await here.pool.query(`update ${here.schema}.pgqrs_messages set archived_at = null where id = ${back}`);
  await putDead({ ...here, queue: await admin.createQueue('other') }, 1);
  const dead = admin.deadLetters('work');
  expect(await dead.list()).toEqual({ messages: [], cursor: undefined });
  expect(await dead.count()).toBe(0);
  expect(await dead.replay({ all: true })).toBe(0);
  expect(await dead.purge([back!])).toBe(0);
  expect(await here.count()).toBe(4);
});

test('pages go from the newest to the oldest, and dying and leaving in between neither doubles nor hides one', async () => {
  const here = await scenario();
  // Some of them died at the same moment.
  const old = await putDead(here, 10, { age: `g / 4 * interval '1 hour' + interval '1 hour'` });
  const dead = here.sluice.admin.deadLetters('work');
  const expected = ids(await dead.list({ limit: 100 }).then(({ messages }) => messages));
  expect([...expected].sort()).toEqual([...old].sort());
  const times = (await dead.list()).messages.map(({ deadAt }) => deadAt.getTime());
  expect(times).toEqual([...times].sort((a, b) => b - a));
  const seen = await pages(dead, 3, async () => {
    await putDead(here, 1); // newer
    await dead.purge(expected[0]!); // on a page that was seen; its place is still one
  });
  expect(seen.map((page) => page.length)).toEqual([3, 3, 3, 1]);
  expect(seen.flat().map(({ id }) => id)).toEqual(expected);
});

test('a page that ends with the list has no cursor', async () => {
  const here = await scenario();
  await putDead(here, 4);
  expect((await pages(here.sluice.admin.deadLetters('work'), 2)).map((page) => page.length)).toEqual([2, 2]);
});

test('lists, counts, replays and purges take the same filter', async () => {
  const here = await scenario();
  const [first, second, third] = await putDead(here, 3, { age: `(4 - g) * interval '1 hour'` });
  const [rejected] = await putDead(here, 1, { reason: `'rejected'`, age: `interval '2 hours'` });
  const dead = here.sluice.admin.deadLetters('work');
  const at = (await dead.list()).messages.find(({ id }) => id === second)!.deadAt;
  const found = async (filter: DeadLetterFilter) => {
    const { messages } = await dead.list(filter);
    expect(await dead.count(filter)).toBe(messages.length);
    return ids(messages).sort();
  };
  expect(await found({ reason: 'rejected' })).toEqual([rejected]);
  expect(await found({ reason: 'no such' })).toEqual([]);
  expect(await found({ deadAfter: at, reason: 'exhausted' })).toEqual([second, third]);
  expect(await found({ deadBefore: at })).toEqual([first]);
  expect(await dead.replay({ deadAfter: at, reason: 'exhausted' })).toBe(2);
  expect(await found({})).toEqual([first, rejected].sort());
  expect(await dead.purge({ reason: 'exhausted', deadBefore: at })).toBe(1);
  expect(await found({})).toEqual([rejected]);
});

test('a replayed message begins anew, under its id and its producer', async () => {
  const here = await scenario();
  const producer = await here.producer();
  const { id } = await producer.enqueue({ n: 1 });
  const consumer = await here.consumer({ maxReadCount: 1, lockSeconds: 0 });
  // That the first lease ended does not say that a handler has failed.
  for (const buried of [[], [id]]) {
    await consumer.dequeue();
    expect(await here.sluice.admin.sweepExhausted({ maxReadCount: 1 })).toEqual(buried);
  }
  expect(await here.sluice.admin.deadLetters('work').replay(id)).toBe(1);
  expect(await failures(here)).toEqual([]);
  const back = (await here.sluice.admin.getMessage(id))!;
  expect(back).toMatchObject({
    readCount: 0,
    dequeuedAt: null,
    consumerWorkerId: null,
    archivedAt: null,
    producerWorkerId: producer.workerId,
  });
  expect(back.vt).toEqual(back.enqueuedAt);
  expect(await consumer.dequeue()).toMatchObject({ id, readCount: 1 });
});

test.each(['by id', 'by filter'])('a replay %s rings the doorbell', async (how) => {
  const here = await scenario();
  const [id] = await putDead(here, 1);
  const client = await here.pool.connect();
  const heard: string[] = [];
  client.on('notification', ({ channel }) => heard.push(channel));
  const channel = channelOf(here.schema, here.queue.id);
  await client.query(`listen "${channel}"`);
  await here.sluice.admin.deadLetters('work').replay(how === 'by id' ? id! : { all: true });
  await eventually('a ring', () => heard.includes(channel));
  client.release(true);
});

test('by ids only dead letters of this queue count', async () => {
  const here = await scenario();
  const [one, two, three] = await putDead(here, 3);
  const [done] = await put(here, { count: 1, columns: { archived_at: 'now()' } });
  const [other] = await putDead({ ...here, queue: await here.sluice.admin.createQueue('other') }, 1);
  const dead = here.sluice.admin.deadLetters('work');
  expect(await dead.replay([one!, one!, done!, other!, '999999'])).toBe(1);
  expect(await dead.purge([two!, done!, other!])).toBe(1);
  expect(await dead.purge([])).toBe(0);
  expect(ids((await dead.list()).messages)).toEqual([three]);
  expect(await failures(here)).toEqual([three, other]);
});

test('a dead letter that a workflow run refers to is passed over, by id and by filter', async () => {
  const here = await scenario();
  const [one, kept, three] = await putDead(here, 3);
  await referTo(here, kept!);
  const dead = here.sluice.admin.deadLetters('work');
  expect(await dead.purge([one!, kept!])).toBe(1);
  expect(await dead.purge({ all: true })).toBe(1);
  expect(await here.sluice.admin.getMessage(three!)).toBeUndefined();
  expect(ids((await dead.list()).messages)).toEqual([kept]);
  expect(await dead.replay(kept!)).toBe(1);
});

test.each(['replay', 'purge'] as const)(
  '%s of many goes in chunks, and leaves alone what dies meanwhile',
  async (change) => {
    const here = await scenario();
    await putDead(here, 30_000, { age: `interval '1 hour'` });
    const { sluice, count, answered } = await spied(here);
    answered(`${change}_dead_letters`, async () => {
      await putDead(here, 10);
    });
    const dead = sluice.admin.deadLetters('work');
    expect(await dead[change]({ all: true })).toBe(30_000);
    expect(count(`${change}_dead_letters`)).toBe(4);
    expect(await dead.count()).toBe(10);
    expect(await failures(here)).toHaveLength(10);
    expect(await here.count()).toBe(change === 'replay' ? 30_010 : 10);
    const { ready, dead: left } = await sluice.admin.queueMetrics('work');
    expect([ready, left]).toEqual([change === 'replay' ? 30_000 : 0, 10]);
  },
  120_000,
);

test('a replay against a purge: each message is either back or gone, and has no failure left', async () => {
  const here = await scenario();
  const all = await putDead(here, 20_000);
  const dead = here.sluice.admin.deadLetters('work');
  const done = await Promise.all([
    dead.replay({ all: true }),
    dead.purge({ all: true }),
    dead.replay(all.slice(0, 500)),
    dead.purge(all.slice(0, 500).reverse()),
  ]);
  const [replayed, purged, replayedById, purgedById] = done;
  // What one of them had locked the others left alone: ask for the rest.
  const rest = await dead.replay({ all: true });
  const back = replayed + replayedById + rest;
  expect(back + purged + purgedById).toBe(20_000);
  expect(await here.count()).toBe(back);
  expect((await here.sluice.admin.queueMetrics('work')).ready).toBe(back);
  expect(await failures(here)).toEqual([]);
});

test('the handle asks nothing; its calls know the queue or say that there is none', async () => {
  const { sluice } = await scenario();
  const dead = sluice.admin.deadLetters('nowhere');
  for (const call of [
    () => dead.list(),
    () => dead.count(),
    () => dead.replay('1'),
    () => dead.replay({ all: true }),
    () => dead.purge(['1']),
  ])
    await expect(call()).rejects.toThrow(QueueNotFoundError);
});

test('options that break a rule are refused by name, before anything happens', async () => {
  const here = await scenario();
  await putDead(here, 1);
  const dead = here.sluice.admin.deadLetters('work');
  const refused: [() => Promise<unknown>, string][] = [
    [() => dead.list({ limit: 0 }), 'limit must be a whole number from 1 to 10000, got 0'],
    [() => dead.list({ cursor: 'x' }), 'cursor must be the cursor of an earlier page, got "x"'],
    [() => dead.list({ cursor: '2026-99-01T00:00:00+00:00~1' }), 'cursor must be the cursor'],
    [() => dead.list({ deadAfter: new Date(NaN) }), 'deadAfter must be a valid Date, got an invalid Date'],
    [() => dead.count({ reason: '' }), 'reason must be a non-empty string'],
    [() => dead.replay('x'), 'id must be an id: a positive decimal string'],
    [() => dead.purge(['1', '-1']), 'ids[1] must be an id: a positive decimal string'],
    [() => dead.purge(undefined as never), 'which must be an id, a list of ids, or a filter, got undefined'],
    // It would purge everything.
    [
      () => dead.purge({ reasn: 'exhausted' } as never),
      'option of deadLetters.purge() must be a known name (nearest: reason)',
    ],
  ];
  for (const [call, message] of refused) {
    const error = await call().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(InvalidOptionError);
    expect((error as Error).message).toContain(message);
  }
  expect(() => here.sluice.admin.deadLetters('a\0')).toThrow(InvalidOptionError);
  expect(await dead.count()).toBe(1);
});

test('a message that pgqrs has replayed and somebody has done since is no dead letter any more', async () => {
  const s = await scenario();
  const [id] = await putDead(s, 1);
  await s.pool.query(`update ${s.schema}.pgqrs_messages set archived_at = null, read_ct = 0`);
  const consumer = await s.consumer();
  const message = await consumer.dequeue();
  expect(message?.id).toBe(id);
  await message?.archive();
  const dead = s.sluice.admin.deadLetters('work');
  expect([await dead.count(), await dead.replay({ all: true }), (await dead.list()).messages]).toEqual([
    0,
    0,
    [],
  ]);
  expect(await s.sluice.admin.archive('work').count()).toBe(1);
  expect(await s.sluice.admin.queueMetrics('work')).toMatchObject({ archived: 1, dead: 0 });
});
