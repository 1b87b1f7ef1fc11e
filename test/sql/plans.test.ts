import { expect, onTestFinished, test } from 'vitest';
import { jsonbArrayOf } from '../../src/ingest/jsonb-array.js';
import type { Queryable, Session } from '../../src/db.js';
import { insertMessages, pinQueue } from '../../src/sql/batches.js';
import { claimMessages, nextDueMs } from '../../src/sql/claim.js';
import { purgeKeys, takeKeys } from '../../src/sql/dedupe.js';
import { enqueue } from '../../src/sql/enqueue.js';
import { sweepExhausted } from '../../src/sql/exhausted.js';
import { replayMessage } from '../../src/sql/replay.js';
import { cancelMessage, extendLease, rescheduleMessage } from '../../src/sql/scheduled.js';
import * as settle from '../../src/sql/settle.js';
import { confirmStream, fenceStream, openStream, resumeStream } from '../../src/sql/streams.js';
import { beat, moveWorker } from '../../src/sql/workers.js';
import { scenario } from '../support/scenario.js';
import { onSql } from './support.js';

const MESSAGES = 1_000_000;
/** More than that many rows or index entries are not what a statement about ten messages needs. */
const ENOUGH = 1_000;
/** A plan is kept from the sixth execution on, unless it looks bad. */
const WARM_UP = 7;

test(
  'no statement of the hot path reads or sorts a queue, with plans that were made while it was empty and without statistics',
  { timeout: 180_000 },
  async () => {
    const s = await scenario();
    const { db, worker, claim } = await onSql(s);
    const tables = ['pgqrs_messages', 'pgqrs_workers', 'sluice_dedupe', 'sluice_failures', 'sluice_workers'];
    for (const table of tables)
      await s.pool.query(`alter table ${s.schema}.${table} set (autovacuum_enabled = off)`);
    // The worst that it can have learnt: next to nothing is in them, which is cheaper to read than to look up.
    await s.pool.query(
      `insert into ${s.schema}.pgqrs_messages (queue_id, payload) values (${s.queue.id}, '1')`,
    );
    await s.pool.query(`insert into ${s.schema}.sluice_dedupe values (${s.queue.id}, 'one', now())`);
    await s.pool.query(`insert into ${s.schema}.sluice_failures values (0, ${s.queue.id}, 'one', null, 1)`);
    await s.pool.query(`vacuum analyze ${tables.map((table) => `${s.schema}.${table}`).join(', ')}`);

    await s.pool.query(`delete from ${s.schema}.pgqrs_messages`);

    const ids = Array.from({ length: 10 }, (_, n) => String(n + 1));
    const held = ids.map((id) => ({ id, readCount: 1 }));
    const lease = `update ${s.schema}.pgqrs_messages set consumer_worker_id = ${worker.id}, read_ct = 1,
      vt = now() + interval '1 minute' where id between 1 and 10`;
    const archive = `update ${s.schema}.pgqrs_messages set archived_at = now() where id between 1 and 10`;
    const payloads = jsonbArrayOf(ids.map(() => ({ json: '1', bytes: 1 })));
    const target = { messageId: '1', queueId: s.queue.id, worker };
    const row = {
      queueId: s.queue.id,
      worker,
      payloads,
      dues: ids.map(() => ({ delaySeconds: 0 })),
      channel: null,
    };
    const once = ids.map((id) => ({ key: `new ${id}`, windowSeconds: 60 }));
    const settlement = (by: settle.SettledBy) => ({ by, held });
    const release = held.map((one, at) => ({
      ...{ ...one, delaySeconds: 1 },
      dead: at % 2 === 0 ? { reason: 'no', lastError: null } : undefined,
    }));
    type Deed = (on: Queryable | Session) => Promise<unknown>;
    /** Each with what comes before it. */
    const deeds: Record<string, [deed: Deed, ...before: string[]]> = {
      claim: [(on) => claimMessages(on, claim({ limit: 10 }))],
      'claim of many': [(on) => claimMessages(on, claim({ limit: 10, maxBytes: 1_000 }))],
      'claim behind a place': [
        (on) => claimMessages(on, claim({ limit: 10, floor: { dueMicros: 1, id: '1' } })),
      ],
      'claim and archive': [
        (on) => claimMessages(on, claim({ limit: 10, settlement: settlement('archive') })),
        lease,
      ],
      'claim and delete': [(on) => claimMessages(on, claim({ settlement: settlement('delete') })), lease],
      'next due': [(on) => nextDueMs(on, claim())],
      'next due behind a place': [(on) => nextDueMs(on, claim(), { dueMicros: 1, id: '1' })],
      archive: [(on) => settle.settleMessages(on, worker, settlement('archive')), lease],
      delete: [(on) => settle.settleMessages(on, worker, settlement('delete')), lease],
      'delete of the archived': [
        (on) => on.query(`delete from ${s.schema}.pgqrs_messages where id between 1 and 10`),
        archive,
      ],
      'were archived': [(on) => settle.wereArchived(on, worker, held), lease, archive],
      release: [(on) => settle.releaseMessages(on, worker, release), lease],
      'give back': [(on) => settle.giveBackMessages(on, worker, held), lease],
      'mark begun': [(on) => settle.markBegun(on, worker, held), lease],
      extend: [(on) => settle.extendMessages(on, worker, held, 1), lease],
      renew: [(on) => settle.renewLeases(on, worker, held, 60), lease],
      sweep: [(on) => sweepExhausted(on, claim(), null, 100)],
      'sweep on': [(on) => sweepExhausted(on, claim(), { at: '2020-01-01T00:00:00Z', id: '1' }, 100)],
      enqueue: [(on) => enqueue(on, { ...row, once: null })],
      'enqueue once': [(on) => enqueue(on, { ...row, once })],
      'take keys': [(on) => takeKeys(on, s.queue.id, ['new 1', 'new 2'], 60)],
      'purge keys': [(on) => purgeKeys(on, 10)],
      pin: [(on) => pinQueue(on, s.queue.id, worker)],
      'insert a batch': [(on) => insertMessages(on, s.queue.id, worker.id, payloads, null, ids.length)],
      cancel: [(on) => cancelMessage(on, target)],
      reschedule: [(on) => rescheduleMessage(on, target, { delaySeconds: 1 })],
      'extend the lease of another': [(on) => extendLease(on, target, 1), lease],
      replay: [(on) => replayMessage(on, target), archive],
      'open a stream': [(on) => openStream(on, 'opened', s.queue.id, worker.id, 1_000)],
      'resume a stream': [(on) => resumeStream(on, 'resumed', s.queue.id, 1_000)],
      'advance a stream': [
        (on) => on.query(`select ${s.schema}.sluice_advance(1, 1, 1, '', 1)`),
        STREAM(s.schema),
      ],
      'confirm a stream': [(on) => confirmStream(on, '1'), STREAM(s.schema)],
      'fence a stream': [(on) => fenceStream(on, '1', 1), STREAM(s.schema)],
      heartbeat: [(on) => beat(on, [worker])],
      'move a worker': [(on) => moveWorker(on, worker, ['ready'], 'ready')],
      'a foreign claim': [
        (on) =>
          on.query(`update ${s.schema}.pgqrs_messages set consumer_worker_id = ${worker.id} where id = 1`),
      ],
      'a foreign insert': [
        (on) =>
          on.query(`insert into ${s.schema}.pgqrs_messages (queue_id, payload, producer_worker_id)
            values (${s.queue.id}, '1', ${worker.id})`),
      ],
      'a workflow run': [
        (on) =>
          on.query(`with w as (insert into ${s.schema}.pgqrs_workflows (name, queue_id) values ('w', ${s.queue.id}) returning id)
            insert into ${s.schema}.pgqrs_workflow_runs (workflow_id, message_id, status) select id, 10, 'QUEUED' from w`),
      ],
    };

    const session = await db.session();
    onTestFinished(() => session.discard());
    const read = async () => {
      const [found] = await session.query<{ rows: number; entries: number }>(
        `select coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::float8 as rows,
           (select coalesce(sum(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0)::float8 from pg_index i
             join pg_class c on c.oid = i.indrelid where c.relnamespace = to_regnamespace($1::text)) as entries
         from pg_stat_xact_user_tables where schemaname = $1::text`,
        [s.schema],
      );
      return found!;
    };
    /** @returns rows and index entries that it has read; what it has done is undone */
    const cost = async ([deed, ...before]: [Deed, ...string[]], on: Queryable) => {
      await session.script('begin');
      for (const text of before) await session.query(text);
      const was = await read();
      await deed(on);
      const is = await read();
      await session.script('rollback');
      return Math.max(is.rows - was.rows, is.entries - was.entries);
    };

    const nothing = `insert into ${s.schema}.pgqrs_messages (id, queue_id, payload, origin)
      select g, ${s.queue.id}, '1', 1 from generate_series(1, 10) g`;
    await session.query(`select setval('${s.schema}.pgqrs_messages_id_seq', ${MESSAGES})`);
    for (let n = 0; n < WARM_UP; n++)
      for (const [deed, ...before] of Object.values(deeds)) await cost([deed, nothing, ...before], session);

    await session.query(`insert into ${s.schema}.pgqrs_messages (id, queue_id, payload, origin, read_ct)
      select g, ${s.queue.id}, jsonb_build_object('n', g), 1, 0 from generate_series(1, ${MESSAGES}) g`);
    await session.query(`insert into ${s.schema}.sluice_dedupe (queue_id, key, expires_at)
      select ${s.queue.id}, 'old ' || g, now() - interval '1 s' from generate_series(1, 20000) g`);
    await session.query(`insert into ${s.schema}.sluice_failures (message_id, queue_id, reason, attempts)
      select g, ${s.queue.id}, 'no', 5 from generate_series(${MESSAGES - 20_000}, ${MESSAGES}) g`);
    await session.query(`with w as (insert into ${s.schema}.pgqrs_workers (name, queue_id)
        select 'worker ' || g, ${s.queue.id} from generate_series(1, 10000) g returning id)
      insert into ${s.schema}.sluice_workers select id from w`);

    const plain = { schema: session.schema, query: session.query.bind(session) } as Queryable;
    const costs: Record<string, number> = {};
    for (const [name, deed] of Object.entries(deeds)) {
      costs[name] = await cost(deed, session);
      // As behind a pooler, where nothing is prepared.
      costs[`${name}, not prepared`] = await cost(deed, plain);
    }
    expect(Object.entries(costs).filter(([, rows]) => rows > ENOUGH)).toEqual([]);
  },
);

const STREAM = (s: string) =>
  `insert into ${s}.sluice_streams (id, name, queue_id) overriding system value select 1, 'known', id from ${s}.pgqrs_queues limit 1`;
