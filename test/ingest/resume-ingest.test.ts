import { Readable } from 'node:stream';
import { expect, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import type { IngestSource, Resume, WritableOptions } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { numbered, scenario } from '../support/scenario.js';
import { numbers } from './support.js';

interface Item {
  n: number;
}

const NAME = 'load';
const BATCH = { batchSize: 100, concurrency: 1, lingerMs: 5 } as const;
const byKey: Resume<Item> = { name: NAME, position: ({ n }) => n };

/** A source that tells whether it was let go of, and may break, hang or be told of. */
function watchedSource({ count = 250, from = 0, breakAt = -1, hangAt = -1 } = {}) {
  const seen = { opened: 0, closed: 0, given: 0 };
  async function* items(): AsyncGenerator<Item> {
    seen.opened++;
    try {
      for (const item of numbered(count, from)) {
        if (item.n === breakAt) throw new Error('the source broke');
        if (item.n === hangAt) await new Promise(() => undefined);
        seen.given++;
        yield item;
      }
    } finally {
      seen.closed++;
    }
  }
  return { seen, items: items() };
}

async function stage() {
  const s = await scenario();
  const producer = await s.producer();
  const load = (source: IngestSource<Item>, options: WritableOptions<Item> = {}) =>
    within(20_000, 'ingest()', producer.ingest<Item>(source, { ...BATCH, resume: NAME, ...options }));
  const position = async () => (await s.sluice.admin.getStream(NAME))?.position;
  return { ...s, running: producer, load, position };
}

/** Where a source that is opened behind a position goes on. */
const after = (position: string | undefined) => Number(position ?? -1) + 1;

const KINDS: Record<
  string,
  (from: number) => ReturnType<Extract<IngestSource<Item>, (...a: never[]) => unknown>>
> = {
  'an array': (from) => [...numbered(250 - from, from)],
  'an iterator': (from) => numbered(250 - from, from),
  'an async iterator': (from) => watchedSource({ from, count: 250 - from }).items,
  'a Readable': (from) => Readable.from(numbered(250 - from, from)),
  'a promise of an array': (from) => Promise.resolve([...numbered(250 - from, from)]),
  'a promise of a Readable': (from) => Promise.resolve(Readable.from(numbered(250 - from, from))),
};

test.each(Object.keys(KINDS))(
  'a function that gives %s is opened behind the last committed item',
  async (kind) => {
    const { load, delivered } = await stage();
    const opened: (string | undefined)[] = [];
    await load(() => numbered(200), { resume: byKey });
    const summary = await load((position) => (opened.push(position), KINDS[kind]!(after(position))), {
      resume: byKey,
    });
    expect(opened).toEqual(['199']);
    expect(summary).toMatchObject({ accepted: 50, committed: 50, position: '249' });
    expect(await delivered()).toEqual(numbers(250));
  },
);

test.each<[string, Resume<Item>]>([
  ['count', NAME],
  ['position', byKey],
])('any other source is read over by %s', async (_by, resume) => {
  const { load, delivered } = await stage();
  for (const [n, source] of [
    [...numbered(120)],
    numbered(230),
    watchedSource().items,
    Readable.from(numbered(300)),
  ].entries())
    expect(await load(source, { resume })).toMatchObject({ committed: [120, 110, 20, 50][n] });
  expect(await load([...numbered(300)], { resume })).toMatchObject({
    accepted: 0,
    committed: 0,
    batches: 0,
  });
  expect(await delivered()).toEqual(numbers(300));
});

test('when a source breaks, committed batches stay, and the next run goes on: many times', async () => {
  const { load, delivered, position } = await stage();
  for (const breakAt of [0, 150, 230, 231, 560]) {
    const { items, seen } = watchedSource({ count: 1_000, breakAt });
    await expect(load(items)).rejects.toThrow('the source broke');
    expect(seen).toMatchObject({ opened: 1, closed: 1, given: breakAt });
    expect(await delivered()).toEqual(numbers(Number((await position()) || 0)));
  }
  expect(Number(await position())).toBeGreaterThanOrEqual(200);
  await load([...numbered(1_000)]);
  expect(await delivered()).toEqual(numbers(1_000));
});

test('a source that cannot be opened ends it with its own error, and the next run goes on', async () => {
  const { load, delivered, sluice } = await stage();
  await load([...numbered(100)], { resume: byKey });
  const failures: IngestSource<Item>[] = [
    () => {
      throw new Error('no such file');
    },
    () => Promise.reject(new Error('no such file')),
    () => Readable.from(numbered(1)).destroy(new Error('no such file')),
  ];
  for (const source of failures)
    await expect(load(source, { resume: byKey })).rejects.toThrow('no such file');
  for (const source of [undefined, null, 7, {}, () => undefined, () => Promise.resolve(7)])
    await expect(load(source as never, { resume: byKey })).rejects.toMatchObject({
      code: 'INVALID_OPTION',
      field: 'source',
    });
  const { pool } = sluice.admin;
  await eventually('the pool to be whole again', () => pool.totalCount === pool.idleCount);
  await load([...numbered(150)], { resume: byKey });
  expect(await delivered()).toEqual(numbers(150));
});

/** Ways in which a run ends that has committed 100 items and is given more, or waits for more. */
const WAYS: Record<string, { options?: WritableOptions<Item>; hangAt?: number; end: string; code?: string }> =
  {
    'the signal aborts in the middle': { end: 'abort', code: 'ABORT_ERR' },
    'the signal aborts while the source hangs': { hangAt: 130, end: 'abort', code: 'ABORT_ERR' },
    'the producer closes while the source hangs': { hangAt: 130, end: 'close', code: 'CLOSED' },
    'the stream is deleted': { end: 'delete', code: 'STREAM_NOT_FOUND' },
    'another run takes over': { end: 'fence', code: 'STREAM_FENCED' },
  };

test.each(Object.keys(WAYS))(
  'the source is let go of, whole or hung, and what is committed is kept: %s',
  async (way) => {
    const { load, running, sluice, delivered } = await stage();
    const { hangAt, end, code } = WAYS[way]!;
    const { items, seen } = watchedSource({ count: 1_000_000, hangAt: hangAt ?? -1 });
    const ending = new AbortController();
    const loading = load(items, { signal: ending.signal }).catch((error: unknown) => error);
    await eventually('a batch', async () => ((await sluice.admin.getStream(NAME))?.rows ?? 0) >= 100);
    if (end === 'abort') ending.abort(new Error('enough'));
    if (end === 'close') await within(5_000, 'close()', running.close());
    if (end === 'delete') await sluice.admin.deleteStream(NAME);
    if (end === 'fence') {
      const other = running.writable({ resume: NAME });
      await other.resumeFrom;
      other.destroy();
    }
    expect(await loading).toMatchObject({ code });
    // A generator that hangs in the middle cannot be closed by anybody.
    if (hangAt === undefined) await eventually('the source to be closed', () => seen.closed === 1);
    const rows = await delivered();
    expect(rows).toEqual(numbers(rows.length));
    if (end !== 'delete') expect(await sluice.admin.getStream(NAME)).toMatchObject({ rows: rows.length });
  },
);

test('a source that is given but never read is let go of too', async () => {
  const { load, sluice } = await stage();
  await sluice.admin.createQueue('other');
  const elsewhere = await sluice.producer('other');
  await elsewhere.ingest([], { resume: NAME });
  let closed = 0;
  const iterable = {
    [Symbol.iterator]: () => ({
      next: () => ({ done: true as const, value: undefined }),
      return: () => (closed++, { done: true as const, value: undefined }),
    }),
  };
  const readable = Readable.from(numbered(10));
  for (const source of [iterable, readable, [...numbered(3)]])
    await expect(load(source)).rejects.toMatchObject({ code: 'INVALID_OPTION', field: 'resume.name' });
  expect(closed).toBe(1);
  expect(readable.destroyed).toBe(true);
});

test('an abort while the source is being opened ends it, and what is opened too late is let go of', async () => {
  const { load } = await stage();
  const ending = new AbortController();
  const late = Readable.from(numbered(10));
  const opening = deferred<Readable>();
  const source = () => (setImmediate(() => ending.abort()), opening.promise);
  await expect(load(source, { signal: ending.signal })).rejects.toMatchObject({ code: 'ABORT_ERR' });
  opening.resolve(late);
  await eventually('it is closed', () => late.destroyed);

  // Aborted before it began: nothing is opened at all.
  let opened = 0;
  await expect(load(() => (opened++, []), { signal: AbortSignal.abort() })).rejects.toMatchObject({
    name: 'AbortError',
  });
  expect(opened).toBe(0);
});
