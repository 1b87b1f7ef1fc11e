import { once } from 'node:events';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import type { IngestSource, Resume, WritableOptions } from '../../src/index.js';
import type { ProducerStream } from '../../streams/producer-stream.js';
import { eventually } from '../support/eventually.js';
import { numbered, scenario } from '../support/scenario.js';
import { closed, counted, numbers } from './support.js';

interface Item {
  n: number;
}

const BATCH = { batchSize: 100, concurrency: 1, lingerMs: 3_600_000 };
const NAME = 'load';

/** Key of an item as a source may have one: text that is no number, in the order of the source. */
const key = ({ n }: Item) => `k${String(n).padStart(6, '0')}-ö`;
const byKey: Resume<Item> = { name: NAME, position: key };

/** Writes 250 items of which the first 200 are committed, and ends without a word. */
async function interrupted(stream: ProducerStream<Item>, from = 0): Promise<void> {
  const events = counted(stream);
  for (const item of numbered(250, from)) stream.write(item);
  await eventually('two batches', () => stream.stats.batches === 2);
  stream.destroy();
  await closed(stream);
  expect(events).toMatchObject({ finish: 0, error: 0, close: 1 });
}

async function stage() {
  const s = await scenario();
  const producer = await s.producer();
  const writable = (resume: Resume<Item> = NAME, options: WritableOptions<Item> = {}) =>
    producer.writable<Item>({ ...BATCH, ...options, resume });
  return { ...s, running: producer, writable, row: () => s.sluice.admin.getStream(NAME) };
}

test.each<[string, Resume<Item>, string, string]>([
  ['how many items', NAME, '200', '450'],
  ['a byte offset, as a number', { name: NAME, position: ({ n }) => (n + 1) * 4_096 }, '819200', '1843200'],
  ['a string key', byKey, key({ n: 199 }), key({ n: 449 })],
])(
  'by %s: a run goes on behind the last committed item, again and again',
  async (_kind, resume, first, last) => {
    const { writable, delivered, row } = await stage();
    const stream = writable(resume);
    expect(await stream.resumeFrom).toBeUndefined();
    expect(stream.stats.position).toBe('');
    await interrupted(stream);
    expect(stream.stats).toMatchObject({ committed: 200, position: first });

    const second = writable(resume);
    expect(await second.resumeFrom).toBe(first);
    await pipeline(Readable.from(numbered(250, 200)), second);
    expect(second.stats).toMatchObject({ committed: 250, position: last });

    const third = writable(resume);
    expect(await third.resumeFrom).toBe(last);
    third.end();
    await once(third, 'close');
    expect(third.stats).toMatchObject({ committed: 0, batches: 0, position: last });
    expect(await delivered()).toEqual(numbers(450));
    expect(await row()).toMatchObject({ run: 3, batches: 0, rows: 450, position: last, resumable: true });
  },
);

test('after a resume the index of a bad item, and the progress, are those of the source', async () => {
  const { writable } = await stage();
  await interrupted(writable());
  const second = writable();
  const events = counted(second);
  for (const item of numbered(130, 200)) second.write(item);
  second.write({ n: 1n as never });
  await closed(second);
  expect(events.reason).toMatchObject({
    code: 'PAYLOAD_INVALID',
    index: 330,
    progress: { committed: 100, position: '300' },
  });
});

test('ingest() that reads over items asks for positions, and counts, from the beginning of the source', async () => {
  const { running, writable, delivered } = await stage();
  const asked: number[] = [];
  const resume = { name: NAME, position: (_: Item, index: number) => (asked.push(index), `i${index}`) };
  await interrupted(writable(resume));
  asked.length = 0;
  const bad = [...numbered(330), { n: 1n as never }];
  await expect(running.ingest(bad, { ...BATCH, resume })).rejects.toMatchObject({
    code: 'PAYLOAD_INVALID',
    index: 330,
    progress: { committed: 100, position: 'i299' },
  });
  expect(asked).toEqual(numbers(331));
  await running.ingest([...numbered(350)], { ...BATCH, resume });
  expect(await delivered()).toEqual(numbers(350));
});

test('a position is asked for once for every item, rejected ones too, and goes on over them', async () => {
  const { writable, row } = await stage();
  let offset = 0;
  const rejected: number[] = [];
  const resume = { name: NAME, position: () => (offset += 10) };
  const stream = writable(resume, { onReject: ({ index }) => void rejected.push(index) });
  for (const item of numbered(50)) stream.write(item);
  stream.write({ n: 1n as never });
  stream.write({ n: 51, text: 'x'.repeat(2_000_000) });
  stream.end();
  await once(stream, 'close');
  expect(rejected).toEqual([50, 51]);
  expect(await row()).toMatchObject({ rows: 50, position: '520' });
});

test.each<[string, (item: Item) => unknown, string]>([
  ['throws', () => { throw new Error('no position'); }, 'no position'], // prettier-ignore
  ['is not a number', () => NaN, 'position of the item at index 150 must be a number, got NaN'],
  ['is infinite', () => Infinity, 'index 150 must be a number, got Infinity'],
  ['is empty', () => '', 'index 150 must be a non-empty string'],
  ['has a NUL', () => 'a\0b', 'index 150 must be a non-empty string'],
  ['is too long', () => 'ö'.repeat(5_001), 'at most 10000 bytes'],
  ['is missing', () => undefined, 'index 150 must be a non-empty string'],
  ['is a promise', () => Promise.resolve('1'), 'index 150 must be a non-empty string'],
])('a position that %s ends the stream; batches before stay', async (_kind, rubbish, message) => {
  const { writable, delivered, row } = await stage();
  const position = (item: Item) => (item.n === 150 ? (rubbish(item) as string) : key(item));
  // Not as an item that cannot be stored either: nobody would know how to go on behind it.
  for (const options of [{}, { onReject: () => undefined }]) {
    const stream = writable({ name: NAME, position }, options);
    const events = counted(stream);
    const from = Number((await stream.resumeFrom)?.slice(1, 7) ?? -1) + 1;
    for (const item of numbered(200 - from, from)) stream.write(item);
    stream.end();
    await closed(stream);
    expect(events).toMatchObject({ finish: 0, error: 1, close: 1 });
    expect(events.reason?.message).toMatch(message.replace('150', String(150 - from)));
    expect(await delivered()).toEqual(numbers(100));
    expect(await row()).toMatchObject({ rows: 100, position: key({ n: 99 }) });
  }
});

test('a stream with positions of its own is not taken up by counting', async () => {
  const { running, writable, delivered } = await stage();
  await interrupted(writable(byKey));
  const stream = writable();
  stream.on('error', () => undefined);
  await expect(stream.resumeFrom).rejects.toMatchObject({ code: 'INVALID_OPTION', field: 'resume.position' });
  await closed(stream);
  await running.ingest([...numbered(300)], { ...BATCH, resume: byKey });
  expect(await delivered()).toEqual(numbers(300));
});

test.each<[string, Resume<Item>, string]>([
  ['count', NAME, '200'],
  ['key', byKey, key({ n: 199 })],
])(
  'a source that ends before the position, by %s, is refused and sends nothing',
  async (_k, resume, position) => {
    const { running, writable, count, row } = await stage();
    await interrupted(writable(resume));
    const sources: IngestSource<Item>[] = [[...numbered(199)], [], Readable.from(numbered(1))];
    for (const [n, source] of sources.entries())
      await expect(running.ingest(source, { ...BATCH, resume })).rejects.toMatchObject({
        code: 'RESUME_POSITION_NOT_FOUND',
        stream: NAME,
        position,
        items: [199, 0, 1][n],
        progress: { committed: 0, position },
      });
    expect(await count()).toBe(200);
    expect(await row()).toMatchObject({ rows: 200, position });
    // One that ends exactly there has nothing more to give.
    expect(await running.ingest([...numbered(200)], { ...BATCH, resume })).toMatchObject({
      committed: 0,
      position,
    });
  },
);
