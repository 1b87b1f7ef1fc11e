import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import { databaseUrl } from '../support/database.js';
import { eventually, within } from '../support/eventually.js';

import { type Home, installed, findings } from './support.js';

describe('install over tables in use', () => {
  /** What pgqrs' own install() leaves: its keys and indexes, and nothing of ours. */
  async function asPgqrsLeavesIt(): Promise<Home> {
    const here = await installed();
    const functions = await here.sql<{ name: string }>(
      `select oid::regprocedure::text as name from pg_proc where pronamespace = '${here.schema}'::regnamespace`,
    );
    await here.sql(`
      ${functions.map(({ name }) => `drop function ${name} cascade;`).join('\n')}
      drop table ${here.s}.sluice_migrations, ${here.s}.sluice_workers, ${here.s}.sluice_streams;
      drop index ${here.s}.sluice_messages_due;
      set search_path = ${here.s};
      alter table pgqrs_messages drop column origin;
      alter table pgqrs_messages reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
        autovacuum_analyze_scale_factor, autovacuum_vacuum_cost_delay);
      alter table pgqrs_messages add constraint fk_messages_queue_id foreign key (queue_id) references pgqrs_queues (id),
        add constraint fk_messages_producer_worker_id foreign key (producer_worker_id) references pgqrs_workers (id),
        add constraint fk_messages_consumer_worker_id foreign key (consumer_worker_id) references pgqrs_workers (id);
      alter table pgqrs_workflow_runs add foreign key (message_id) references pgqrs_messages (id);
      create index idx_pgqrs_messages_hot_path on pgqrs_messages (queue_id, vt, enqueued_at, id) where archived_at is null;
      create index idx_pgqrs_messages_consumer_worker_id_active on pgqrs_messages (consumer_worker_id)
        where archived_at is null and consumer_worker_id is not null;
      create index idx_pgqrs_messages_archived_at on pgqrs_messages (queue_id, archived_at) where archived_at is not null;
      create index idx_pgqrs_messages_producer_worker_id on pgqrs_messages (producer_worker_id);
      insert into pgqrs_queues (queue_name) values ('work');
      insert into pgqrs_workers (name, queue_id) select 'peer', id from pgqrs_queues;
      insert into pgqrs_messages (queue_id, payload, producer_worker_id)
        select q.id, jsonb_build_object('n', n), w.id from pgqrs_queues q, pgqrs_workers w, generate_series(1, 1000) n;
      reset search_path`);
    return here;
  }

  const INSERT = (s: string) => `insert into ${s}.pgqrs_messages (queue_id, payload, producer_worker_id)
    select q.id, '{}', w.id from ${s}.pgqrs_queues q, ${s}.pgqrs_workers w where w.name = 'peer'`;
  const contents = ({ sql, s }: Home) =>
    sql(`select id, queue_id, payload, vt, enqueued_at, read_ct, dequeued_at, producer_worker_id, consumer_worker_id, archived_at
      from ${s}.pgqrs_messages order by id limit 1000`);

  /** The statement of ours that the server is working on, by a part of its text. */
  const running = ({ sql, schema }: Home, part: string) =>
    sql<{ pid: number }>(`select pid from pg_stat_activity where pid <> pg_backend_pid() and state = 'active'
      and query ilike '%${part}%' and query like '%${schema}%'`);

  /** A transaction of its own that stays open until `end`. */
  async function open(
    { url }: Home,
    ...statements: string[]
  ): Promise<{ query: (text: string) => Promise<unknown>; end: () => Promise<void> }> {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    onTestFinished(() => client.end());
    const query = (text: string) => client.query(text);
    for (const statement of ['begin', ...statements]) await query(statement);
    return { query, end: () => query('commit').then(() => undefined) };
  }

  test('brings it to our physics without touching the data, while a writer goes on', async () => {
    const here = await asPgqrsLeavesIt();
    const before = await contents(here);
    let written = 0;
    const done = new AbortController();
    const writer = (async () => {
      const client = await here.pool.connect();
      try {
        while (!done.signal.aborted) written += (await client.query(INSERT(here.s))).rowCount ?? 0;
      } finally {
        client.release();
      }
    })();
    await eventually('the writer writes', () => written > 10);
    await within(30_000, 'install', here.admin.install());
    const during = written;
    await eventually('the writer still writes', () => written > during);
    done.abort();
    await writer;
    await here.admin.verify();
    expect(await contents(here)).toEqual(before);
    expect(await here.sql(`select count(*)::int from ${here.s}.pgqrs_messages where origin is null`)).toEqual(
      [{ count: 1000 + written }],
    );
  });

  test('a killed installer leaves an invalid index; verify() names what is unfinished, install() goes on from there', async () => {
    const here = await asPgqrsLeavesIt();
    // An old snapshot: the index is built, and then waits for it.
    const old = await open(here, 'set transaction isolation level repeatable read', 'select 1');
    const installing = here.admin.install().catch((error: unknown) => error);
    const [{ pid }] = (await eventually('the index is being built', async () => {
      const rows = await here.sql<{ pid: number }>(`select a.pid from pg_stat_progress_create_index p
        join pg_stat_activity a using (pid) where p.relid = '${here.s}.pgqrs_messages'::regclass and p.phase like '%old snapshots'`);
      return rows.length > 0 && rows;
    })) as [{ pid: number }];
    await here.sql(`select pg_terminate_backend(${pid})`);
    expect((await installing) as { transient: boolean }).toMatchObject({ transient: true });

    expect(await findings(here.admin)).toEqual([
      'index sluice_messages_due is invalid: its build was interrupted',
      expect.stringContaining('table pgqrs_messages lacks the setting autovacuum_vacuum_scale_factor=0.02'),
      'table sluice_streams lacks the setting fillfactor=50, autovacuum_vacuum_threshold=500',
      'foreign key from pgqrs_messages to pgqrs_queues is still there: it checks every row',
      'foreign key from pgqrs_messages to pgqrs_workers is still there: it checks every row',
      'foreign key from pgqrs_workflow_runs to pgqrs_messages is still there: it checks every row',
      'index idx_pgqrs_messages_hot_path of pgqrs is still there: it slows every write',
      'index idx_pgqrs_messages_consumer_worker_id_active of pgqrs is still there: it slows every write',
      'index idx_pgqrs_messages_archived_at of pgqrs is still there: it slows every write',
      'index idx_pgqrs_messages_producer_worker_id of pgqrs is still there: it slows every write',
      'migration 4 (plans that no statistics change; walks that are shared) of pg-sluice is not finished',
    ]);
    await old.end();
    await within(20_000, 'install', here.admin.install());
    await here.admin.verify();
  });

  test("a lock that somebody holds for long is waited for in turns, between which others' writes pass", async () => {
    const here = await asPgqrsLeavesIt();
    const holder = await open(here, `lock table ${here.s}.pgqrs_messages in access share mode`);
    const installing = here.admin.install();
    let waits = 0;
    let waiting = false;
    await eventually('two waits for the lock', async () => {
      const now = (await running(here, 'alter table')).length > 0;
      if (now && !waiting) waits++;
      waiting = now;
      return waits === 2;
    });
    await within(5_000, 'a write between two waits', here.sql(INSERT(here.s)));
    await holder.end();
    await within(20_000, 'install', installing);
    await here.admin.verify();
  });

  test('in a deadlock with a writer it is the installer that gives way', async () => {
    const here = await asPgqrsLeavesIt();
    // Dropping the key locks messages, then workers; this writer has locked a worker, and then writes a message.
    const writer = await open(here, `select from ${here.s}.pgqrs_workers for key share`);
    const installing = here.admin.install();
    await eventually(
      'the installer waits for the workers table',
      async () => (await running(here, 'drop constraint')).length > 0,
    );
    await within(5_000, 'the write', writer.query(INSERT(here.s)));
    await writer.end();
    await within(20_000, 'install', installing);
    await here.admin.verify();
  });

  test('several may do it at once', async () => {
    const here = await asPgqrsLeavesIt();
    const admins = await Promise.all([here.another(), here.another(), here.another()]);
    await within(30_000, 'three installs', Promise.all(admins.map((admin) => admin.install())));
    await here.admin.verify();
  });

  test("a role's short time-outs do not keep it from ever finishing", async () => {
    const here = await asPgqrsLeavesIt();
    const url = new URL(databaseUrl());
    url.searchParams.set('options', '-c statement_timeout=400 -c lock_timeout=300');
    const admin = await here.another(url.href);
    const old = await open(here, 'set transaction isolation level repeatable read', 'select 1');
    const installing = admin.install();
    const started = performance.now();
    await eventually('the build outlives the time-out', async () => {
      const building = (await running(here, 'create index concurrently')).length > 0;
      return building && performance.now() - started > 1_500;
    });
    await old.end();
    await within(20_000, 'install', installing);
    await here.admin.verify();
    const { rows } = await admin.pool.query('show statement_timeout');
    expect(rows).toEqual([{ statement_timeout: '400ms' }]);
  });
});
