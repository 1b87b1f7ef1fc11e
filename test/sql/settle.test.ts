import { expect, test } from 'vitest';
import { claimMessages } from '../../src/sql/claim.js';
import { sweepExhausted } from '../../src/sql/exhausted.js';
import {
  giveBackMessages,
  markBegun,
  releaseMessages,
  settleMessages,
  wereArchived,
} from '../../src/sql/settle.js';
import { put } from '../support/dead-messages.js';
import { scenario } from '../support/scenario.js';
import { foreignWorker } from '../support/worker-rows.js';
import { onSql } from './support.js';

const PAST = `now() - interval '5 minutes'`;

test('what was buried was not archived as done, whoever buried it', async () => {
  const s = await scenario();
  const { db, worker, claim } = await onSql(s);
  const [done, dead, swept] = (await put(s, { count: 3, columns: { read_ct: '4' } })) as [
    string,
    string,
    string,
  ];
  await claimMessages(db, claim({ limit: 3 }));
  const [ofDone, ofDead, ofSwept] = [done, dead, swept].map((id) => ({ id, readCount: 5 }));
  await settleMessages(db, worker, { by: 'archive', held: [ofDone!] });
  await releaseMessages(db, worker, [
    { ...ofDead!, delaySeconds: 0, dead: { reason: 'no', lastError: null } },
  ]);
  await markBegun(db, worker, [ofSwept!]);
  await s.pool.query(`update ${s.schema}.pgqrs_messages set vt = ${PAST} where id = ${swept}`);
  expect((await sweepExhausted(db, claim(), null, 100)).ids).toEqual([swept]);
  const { rows } = await s.pool.query(`select from ${s.schema}.pgqrs_messages where archived_at is not null`);
  expect(rows).toHaveLength(3);
  expect(await wereArchived(db, worker, [ofDone!, ofDead!, ofSwept!])).toEqual([true, false, false]);
  // As another delivery, or another worker's, it was not.
  expect(await wereArchived(db, worker, [{ id: done, readCount: 4 }])).toEqual([false]);
  expect(await wereArchived(db, { ...worker, id: '0' }, [ofDone!])).toEqual([false]);
});

test.each<[who: string, columns: Record<string, string>, mark: boolean, buried: boolean]>([
  ['handed out, and its process died before a handler began', {}, false, false],
  ['handed out, and its process died when the handler had begun', {}, true, true],
  [
    'handed out, and given back by an operator who stopped its worker',
    { consumer_worker_id: 'null' },
    false,
    false,
  ],
  ['handed out, and then leased by a foreign client', { consumer_worker_id: 'foreign' }, false, true],
])('at the last delivery, %s', async (_who, columns, mark, buried) => {
  const s = await scenario();
  const { db, worker, claim } = await onSql(s);
  const foreign = await foreignWorker(s, { name: 'foreign', queueId: s.queue.id });
  const [id] = (await put(s, { count: 1, columns: { read_ct: '4' } })) as [string];
  const { messages } = await claimMessages(db, claim());
  if (mark) expect(await markBegun(db, worker, messages!)).toEqual([true]);
  const sets = Object.entries({ vt: PAST, ...columns }).map(([name, value]) => `${name} = ${value}`);
  await s.pool.query(`update ${s.schema}.pgqrs_messages set ${sets.join(', ').replace('foreign', foreign)}`);
  const sweep = () => sweepExhausted(db, claim({ foreignLeases: 'expired' }), null, 100);
  expect(await sweep()).toMatchObject(buried ? { ids: [id], returned: 0 } : { ids: [], returned: 1 });
  expect(await sweep()).toMatchObject({ ids: [], returned: 0 });
  if (buried) return;
  // Its last chance comes again, and this time somebody begins.
  const again = await claimMessages(db, claim());
  expect(again.messages).toMatchObject([{ id, readCount: 5 }]);
  expect([...again.suspects]).toEqual([id]);
  expect(await markBegun(db, worker, again.messages!)).toEqual([true]);
  await s.pool.query(`update ${s.schema}.pgqrs_messages set vt = ${PAST}`);
  expect(await sweep()).toMatchObject({ ids: [id], returned: 0 });
});

test('a mark is of one delivery: an earlier one says nothing of a later', async () => {
  const s = await scenario();
  const { db, worker, claim } = await onSql(s);
  await put(s, { count: 1, columns: { read_ct: '3' } });
  const { messages } = await claimMessages(db, claim({ lockSeconds: 0 }));
  expect(await markBegun(db, worker, messages!)).toEqual([true]);
  const later = await claimMessages(db, claim({ lockSeconds: 0 }));
  expect(later.messages).toMatchObject([{ readCount: 5 }]);
  expect(await markBegun(db, worker, messages!)).toEqual([false]);
  expect(await sweepExhausted(db, claim(), null, 100)).toMatchObject({ ids: [], returned: 1 });
});

test('a foreign client that claims and releases what was given back once does not keep it alive for ever', async () => {
  const s = await scenario();
  const { db, claim } = await onSql(s);
  const [id] = await put(s, { count: 1, columns: { read_ct: '4' } });
  await claimMessages(db, claim({ lockSeconds: 0 }));
  expect(await sweepExhausted(db, claim(), null, 100)).toMatchObject({ ids: [], returned: 1 });
  await s.pool.query(`update ${s.schema}.pgqrs_messages set read_ct = read_ct + 1`);
  expect(await sweepExhausted(db, claim(), null, 100)).toMatchObject({ ids: [id], returned: 0 });
});

test('claims of ours are known to the guard of references, marked or not', async () => {
  const s = await scenario();
  const { db, worker, claim } = await onSql(s);
  await put(s, { count: 1 });
  // The guard looks for the worker's row; with another's id it would find none.
  await s.pool.query(`create function ${s.schema}.seen() returns trigger language plpgsql as $$ begin
      raise exception 'taken for a foreign claim'; end $$;
    drop trigger sluice_check_update on ${s.schema}.pgqrs_messages;
    create trigger sluice_check_update after update of queue_id, producer_worker_id, consumer_worker_id
      on ${s.schema}.pgqrs_messages for each row when (
      new.consumer_worker_id is not null and new.consumer_worker_id is distinct from old.consumer_worker_id
      and not new.origin is distinct from old.origin) execute function ${s.schema}.seen()`);
  for (const begun of [true, true, false, false, true, false]) {
    const { messages } = await claimMessages(db, claim());
    expect(messages).toHaveLength(1);
    if (begun) expect(await markBegun(db, worker, messages!)).toEqual([true]);
    expect(await giveBackMessages(db, worker, messages!)).toEqual([true]);
  }
});
