import { expect, test } from 'vitest';
import { type Claimed, claimMessages, nextDueMs } from '../../src/sql/claim.js';
import { put } from '../support/dead-messages.js';
import { scenario } from '../support/scenario.js';
import { onSql } from './support.js';

const ids = ({ messages }: Claimed) => messages?.map(({ id }) => id);
const PAST = `now() - interval '1 minute'`;

test('a bound in bytes counts the text that the client receives, however small it is on the disk', async () => {
  const s = await scenario();
  const { db, claim } = await onSql(s);
  const all = await put(s, { count: 10, columns: { payload: `to_jsonb(repeat('a', 100000))` } });
  const { rows } = await s.pool.query<{ stored: number }>(
    `select sum(pg_column_size(payload))::int as stored from ${s.schema}.pgqrs_messages`,
  );
  expect(rows[0]!.stored).toBeLessThan(20_000);
  const some = await claimMessages(db, claim({ limit: 10, maxBytes: 350_000 }));
  expect(ids(some)).toEqual(all.slice(0, 3));
  expect(some).toMatchObject({ bytes: 3 * 100_002, more: true, last: { id: all[2] } });
  // What was left is nobody's.
  const rest = await claimMessages(db, claim({ limit: 10, floor: some.last }));
  expect(ids(rest)).toEqual(all.slice(3));
  expect(rest).toMatchObject({ bytes: 7 * 100_002, more: false, last: { id: all[9] } });
  expect(rest.messages!.map(({ readCount }) => readCount)).toEqual(Array(7).fill(1));
});

test('one message comes whatever its size, and a claim that brings none says that it brought no bytes', async () => {
  const s = await scenario();
  const { db, claim } = await onSql(s);
  const [big] = await put(s, { count: 2, columns: { payload: `to_jsonb(repeat('a', 1000))` } });
  const one = await claimMessages(db, claim({ limit: 10, maxBytes: 1 }));
  expect(ids(one)).toEqual([big]);
  expect(one).toMatchObject({ bytes: 1_002, more: true });
  await claimMessages(db, claim({ limit: 10 }));
  expect(await claimMessages(db, claim({ limit: 10, maxBytes: 1 }))).toEqual({
    ...{ messages: [], suspects: new Set(), bytes: 0, more: false, last: undefined, settled: [] },
  });
});

test('of suspects that were delivered often enough only so many come, and those with one delivery left say so', async () => {
  const s = await scenario();
  const { db, claim } = await onSql(s);
  const ran = { consumer_worker_id: (await s.consumer()).workerId };
  const [new1] = await put(s, { count: 1, columns: { vt: PAST } });
  const again = await put(s, { count: 3, columns: { vt: PAST, read_ct: '3', ...ran } });
  const [new2] = await put(s, { count: 1, columns: { vt: PAST, read_ct: '2', ...ran } });
  // Its last delivery was ended by whoever had it: no suspect.
  const [failed] = await put(s, { count: 1, columns: { vt: PAST, read_ct: '4' } });
  const suspects = { fromReadCount: 3, atMost: 1 };
  const claimed = await claimMessages(db, claim({ limit: 10, suspects }));
  expect(ids(claimed)).toEqual([new1, again[0], new2, failed]);
  expect(claimed).toMatchObject({ more: true, last: { id: again[0] } });
  expect([...claimed.suspects]).toEqual([again[0], new2]);
  const none = { fromReadCount: 3, atMost: 0 };
  const nothing = await claimMessages(db, claim({ limit: 10, suspects: none, floor: claimed.last }));
  expect(nothing).toMatchObject({ messages: [], more: true, last: undefined });
  expect(ids(await claimMessages(db, claim({ limit: 10, floor: claimed.last })))).toEqual(again.slice(1));
});

test.each(['archive', 'delete'] as const)(
  '%s that the server refuses fails neither the claim nor undoes it, and settles none of its group',
  async (by) => {
    const s = await scenario();
    const { db, worker, claim } = await onSql(s);
    const held = await put(s, { count: 2 });
    await claimMessages(db, claim({ limit: 2 }));
    const deliveries = held.map((id) => ({ id, readCount: 1 }));
    await s.pool.query(`
      create function ${s.schema}.no() returns trigger language plpgsql as $$ begin
        if old.id = ${held[1]} then raise exception 'no' using errcode = '23503'; end if; return null; end $$;
      create trigger no after update of archived_at or delete on ${s.schema}.pgqrs_messages
        for each row execute function ${s.schema}.no()`);
    const [next] = await put(s, { count: 1 });
    const settlement = { by, held: deliveries };
    const claimed = await claimMessages(db, claim({ limit: 2, settlement }));
    expect(ids(claimed)).toEqual([next]);
    expect(claimed.settled).toBe('refused');
    const good = { by, held: [{ id: held[0]!, readCount: 1 }] };
    expect((await claimMessages(db, claim({ settlement: good }))).settled).toEqual([true]);
    expect(worker.id).toBe(claimed.messages![0]!.consumerWorkerId);
  },
);

test('the next message that is due is looked for behind a place', async () => {
  const s = await scenario();
  const { db, claim } = await onSql(s);
  await put(s, { count: 1, columns: { vt: PAST } });
  const claimed = await claimMessages(db, claim({ lockSeconds: 0 }));
  expect(await nextDueMs(db, claim())).toBe(0);
  await s.pool.query(`update ${s.schema}.pgqrs_messages set vt = now() - interval '1 day'`);
  await put(s, { count: 1, columns: { vt: `now() + interval '1 hour'` } });
  const behind = (await nextDueMs(db, claim(), claimed.last))!;
  expect(behind).toBeGreaterThan(0);
  expect(behind).toBeLessThanOrEqual(3_600_000);
  expect(await nextDueMs(db, claim())).toBe(0);
});
