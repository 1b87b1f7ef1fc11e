import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describe, expect, test } from 'vitest';
import type { Reject } from '../../src/index.js';
import { type BehindProxy, behindProxy, expectNothingLeft, numbers } from '../ingest/support.js';
import {
  bad,
  deliveredTo,
  expectAddsUp,
  good,
  mixed,
  refuseBad,
  rejectsIn,
  type ServerFault,
  uniqueTexts,
  without,
} from '../ingest/rejects-support.js';
import { eventually, within } from '../support/eventually.js';
import { asksToCommit, saysCommitted } from '../support/proxy.js';

const OPTIONS = { batchSize: 100, retryBaseMs: 1, retryMaxMs: 20, batchTimeoutMs: 5_000 };

/** Cuts connections at three of ten commits, in turn before, during and after, and at answers to searches for bad rows. */
function cutAtCommits(proxy: BehindProxy['proxy']) {
  const cuts = { before: 0, during: 0, after: 0, searching: 0 };
  let commits = 0;
  let searches = 0;
  proxy.judge = (bytes) => {
    const { link } = bytes;
    if (asksToCommit(bytes)) {
      const turn = ++commits % 10;
      if (turn === 3) {
        cuts.before++;
        return 'cut';
      }
      if (turn === 6) {
        cuts.during++;
        return 'passThenCut';
      }
      if (turn === 9) link.notes.add('after');
      else link.notes.delete('after');
    } else if (saysCommitted(bytes) && link.notes.has('after')) {
      cuts.after++;
      return 'cut';
    } else if (bytes.from === 'client' && bytes.data.includes('rollback to savepoint')) {
      if (++searches % 20 === 1) {
        cuts.searching++;
        return 'cut';
      }
    }
    return 'pass';
  };
  return cuts;
}

async function poisoned(fault: ServerFault) {
  const behind = await behindProxy();
  await behind.sluice.admin.createQueue('bad');
  await refuseBad(behind, fault);
  return behind;
}

describe.each([
  ['a CHECK constraint', 1],
  ['a trigger', 2],
  ['a deferred constraint trigger', 4],
] as const)('%s, %i in flight', (fault, concurrency) => {
  test('with three of ten commits cut nothing is lost or doubled, and each reject is told and stored once', async () => {
    const behind = await poisoned(fault);
    const cuts = cutAtCommits(behind.proxy);
    const rows = 6_000;
    const items = new Map<number, unknown>();
    for (let n = 11; n < rows; n += 97) items.set(n, { n, value: 1n });
    for (let n = 50; n < rows; n += 131) items.set(n, bad(n));
    for (const n of numbers(100)) items.set(3_000 + n, n % 3 ? bad(3_000 + n) : { value: 1n });
    const rejects: Reject[] = [];
    const stream = behind.through.writable<unknown>({
      ...{ ...OPTIONS, concurrency, rejectTo: 'bad', retries: 50 },
      onReject: (reject) => void rejects.push(reject),
    });
    await within(55_000, 'the load', pipeline(Readable.from(mixed(rows, items)), stream));
    behind.proxy.judge = () => 'pass';
    for (const [moment, count] of Object.entries(cuts)) expect(count, moment).toBeGreaterThanOrEqual(4);
    const places = [...items.keys()].sort((a, b) => a - b);
    expect(await deliveredTo(behind)).toEqual(without(rows, places));
    expect((await rejectsIn(behind)).map(({ index }) => index)).toEqual(places);
    expect(rejects.map(({ index }) => index).sort((a, b) => a - b)).toEqual(places);
    expect(stream.stats).toMatchObject({ accepted: rows, rejected: places.length, position: `${rows}` });
    expect(stream.stats.resolved).toBeGreaterThanOrEqual(cuts.after);
    expectAddsUp(stream.stats);
    await expectNothingLeft(behind, behind.sluiceThrough);
  });
});

test.each(['copy', 'insert'] as const)(
  'rows of a batch whose COMMIT was not answered are not taken for repeats of themselves by a unique index; %s',
  async (method) => {
    const behind = await poisoned('a CHECK constraint');
    await uniqueTexts(behind);
    const { proxy } = behind;
    let commits = 0;
    proxy.judge = (bytes) => (saysCommitted(bytes) && ++commits % 2 === 0 ? 'cut' : 'pass');
    const rejects: Reject[] = [];
    const stream = behind.through.writable<unknown>({
      ...{ ...OPTIONS, method, rejectTo: 'bad' },
      onReject: (reject) => void rejects.push(reject),
    });
    const repeat = new Map([[550, { ...good(3), n: 550 }]]);
    await within(30_000, 'the load', pipeline(Readable.from(mixed(1_000, repeat)), stream));
    expect(commits).toBeGreaterThanOrEqual(10);
    expect(rejects.map(({ index }) => index)).toEqual([550]);
    expect((await rejectsIn(behind)).map(({ index }) => index)).toEqual([550]);
    expect(await deliveredTo(behind)).toEqual(without(1_000, [550]));
    expect(stream.stats).toMatchObject({ accepted: 1_000, committed: 999, rejected: 1 });
    expect(stream.stats.resolved).toBeGreaterThanOrEqual(5);
    await expectNothingLeft(behind, behind.sluiceThrough);
  },
);

test('a batch that goes back with its rejects reports them once and stores them once', async () => {
  const behind = await poisoned('a CHECK constraint');
  let commits = 0;
  // The first batch fails three times at its COMMIT; those behind it have sent their rejects each time.
  behind.proxy.judge = (bytes) => (asksToCommit(bytes) && ++commits <= 3 ? 'cut' : 'pass');
  const stream = behind.through.writable<unknown>({ ...OPTIONS, concurrency: 4, rejectTo: 'bad' });
  const items = new Map(numbers(40).map((at) => [at * 10, at % 2 ? bad(at * 10) : { value: 1n }] as const));
  await within(30_000, 'the load', pipeline(Readable.from(mixed(400, items)), stream));
  expect(stream.stats.retries).toBe(3);
  expect((await rejectsIn(behind)).map(({ index }) => index)).toEqual([...items.keys()]);
  expect(await deliveredTo(behind)).toEqual(without(400, items.keys()));
});

test('a server that is away while bad rows are looked for is waited for', async () => {
  const behind = await poisoned('a CHECK constraint');
  const { proxy } = behind;
  let away = false;
  proxy.judge = ({ from, data }) => {
    if (away || from !== 'client' || !data.includes('set constraints')) return 'pass';
    away = true;
    proxy.door = 'shut';
    queueMicrotask(() => proxy.cutAll());
    return 'cut';
  };
  const rejects: number[] = [];
  const stream = behind.through.writable<unknown>({
    ...{ ...OPTIONS, retries: 1_000 },
    onReject: ({ index }) => void rejects.push(index),
  });
  const loaded = pipeline(Readable.from(mixed(1_000, new Map([[555, bad(555)]]))), stream);
  await eventually('the outage', () => away);
  await behind.pool.query('select pg_sleep(0.2)');
  proxy.door = 'open';
  await within(30_000, 'the load', loaded);
  expect(rejects).toEqual([555]);
  expect(await behind.delivered()).toEqual(without(1_000, [555]));
});

test('destroy while bad rows are looked for in a server that does not answer ends soon', async () => {
  const behind = await poisoned('a CHECK constraint');
  let silent = false;
  behind.proxy.judge = ({ from, data }) => {
    if (silent || from !== 'client' || !data.includes('set constraints')) return 'pass';
    silent = true;
    return 'hole';
  };
  const stream = behind.through.writable<unknown>({ ...OPTIONS, onReject: () => expect.unreachable() });
  for (const item of mixed(200, new Map([[120, bad(120)]]))) stream.write(item);
  await eventually('the silence', () => silent);
  const started = performance.now();
  stream.destroy();
  await within(10_000, 'the end', new Promise((resolve) => stream.once('close', resolve)));
  expect(performance.now() - started).toBeLessThan(3_000);
  expect(await behind.delivered()).toEqual(numbers(100));
  await expectNothingLeft(behind, behind.sluiceThrough);
});

test('rejects wait for a connection that fails when the stream opens', async () => {
  const behind = await poisoned('a CHECK constraint');
  let cuts = 0;
  behind.proxy.judge = ({ from, data }) =>
    from === 'client' && data.includes('sluice:select_queue') && ++cuts <= 2 ? 'cut' : 'pass';
  const summary = await behind.through.ingest([good(0), { value: 1n }], { ...OPTIONS, rejectTo: 'bad' });
  expect(cuts).toBe(3);
  expect(summary).toMatchObject({ committed: 1, rejected: 1 });
});
