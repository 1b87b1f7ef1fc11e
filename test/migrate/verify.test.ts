import { describe, expect, test } from 'vitest';
import { SchemaMismatchError, SchemaNotInstalledError } from '../../src/index.js';

import { home, installed, catalogue, findings } from './support.js';

describe('verify', () => {
  test('a missing schema and one without tables are said in one line', async () => {
    const { admin, s, sql } = await home();
    const missing = await admin.verify().catch((error: unknown) => error);
    expect(missing).toBeInstanceOf(SchemaNotInstalledError);
    expect((missing as Error).message).toMatch(/^schema "test_\w+" does not exist: .* admin\.install\(\)$/);
    await sql(`create schema ${s}`);
    const empty = await admin.verify().catch((error: unknown) => error);
    expect(empty).toBeInstanceOf(SchemaNotInstalledError);
    expect((empty as Error).message).toMatch(
      /^schema "test_\w+" has no queue tables: .* admin\.install\(\)$/,
    );
  });

  /** One change each: what it does, what verify() says of it. */
  const MENDED: [name: string, sql: string, ...findings: string[]][] = [
    ['a table', 'drop table {s}.pgqrs_workflow_steps', 'table pgqrs_workflow_steps is missing'],
    [
      'a table with triggers',
      'drop table {s}.pgqrs_workflow_steps, {s}.pgqrs_workflow_runs',
      'table pgqrs_workflow_runs is missing',
      'table pgqrs_workflow_steps is missing',
    ],
    ['a table of ours', 'drop table {s}.sluice_streams', 'table sluice_streams is missing'],
    ['the places of walks', 'drop table {s}.sluice_walks', 'table sluice_walks is missing'],
    [
      'what gives messages a time',
      'drop function {s}.sluice_give_time() cascade',
      'function sluice_give_time is missing',
      'trigger sluice_give_time on pgqrs_messages is missing',
    ],
    ['the messages table', 'drop table {s}.pgqrs_messages cascade', 'table pgqrs_messages is missing'],
    ['the bookkeeping table', 'drop table {s}._sqlx_migrations', 'table _sqlx_migrations is missing'],
    [
      'our column',
      'alter table {s}.pgqrs_messages drop column origin cascade',
      'column pgqrs_messages.origin is missing',
      'trigger sluice_check_insert on pgqrs_messages is missing',
      'trigger sluice_check_update on pgqrs_messages is missing',
    ],
    ['an index', 'drop index {s}.sluice_messages_due', 'index sluice_messages_due is missing'],
    [
      'an index on other columns',
      'drop index {s}.sluice_messages_due; create index sluice_messages_due on {s}.pgqrs_messages (vt) where archived_at is null',
      "index sluice_messages_due is not this version's",
    ],
    [
      'an index on other rows',
      'drop index {s}.sluice_messages_due; create index sluice_messages_due on {s}.pgqrs_messages (queue_id, vt, id)',
      "index sluice_messages_due is not this version's",
    ],
    [
      'an invalid index',
      "update pg_index set indisvalid = false where indexrelid = '{s}.sluice_messages_due'::regclass",
      'index sluice_messages_due is invalid: its build was interrupted',
    ],
    [
      'a trigger',
      'drop trigger sluice_queues_gone on {s}.pgqrs_queues',
      'trigger sluice_queues_gone on pgqrs_queues is missing',
    ],
    [
      'a disabled trigger',
      'alter table {s}.pgqrs_workers disable trigger sluice_workers_gone',
      'trigger sluice_workers_gone on pgqrs_workers is disabled',
    ],
    [
      'triggers that fire on replicas only',
      'alter table {s}.pgqrs_messages enable replica trigger sluice_check_insert',
      'trigger sluice_check_insert on pgqrs_messages is disabled',
    ],
    [
      'a trigger on another event',
      `drop trigger sluice_check_run on {s}.pgqrs_workflow_runs;
       create trigger sluice_check_run after insert on {s}.pgqrs_workflow_runs for each row execute function {s}.sluice_check_run()`,
      "trigger sluice_check_run on pgqrs_workflow_runs is not this version's",
    ],
    [
      'a trigger on other rows',
      `drop trigger sluice_check_insert on {s}.pgqrs_messages;
       create trigger sluice_check_insert after insert on {s}.pgqrs_messages for each row
       when (new.origin = 7) execute function {s}.sluice_check_message()`,
      "trigger sluice_check_insert on pgqrs_messages is not this version's",
    ],
    [
      'the body of a function',
      `create or replace function {s}.sluice_queues_gone() returns trigger language plpgsql security definer
       set search_path to 'pg_catalog', 'pg_temp' as 'begin return null; end'`,
      "function sluice_queues_gone is not this version's",
    ],
    [
      'the rights of a function',
      'alter function {s}.sluice_pin(bigint, bigint, timestamptz) security invoker',
      "function sluice_pin is not this version's",
    ],
    [
      'the search_path of a function',
      'alter function {s}.sluice_pin(bigint, bigint, timestamptz) reset search_path',
      "function sluice_pin is not this version's",
    ],
    [
      'a function',
      'drop function {s}.sluice_advance(bigint, bigint, bigint, text, bigint)',
      'function sluice_advance is missing',
    ],
    [
      'a function and its triggers',
      'drop function {s}.sluice_messages_gone() cascade',
      'function sluice_messages_gone is missing',
      'trigger sluice_messages_gone on pgqrs_messages is missing',
    ],
    [
      'a storage setting',
      'alter table {s}.pgqrs_messages reset (autovacuum_vacuum_threshold)',
      'table pgqrs_messages lacks the setting autovacuum_vacuum_threshold=5000',
    ],
    [
      'another value of a storage setting',
      'alter table {s}.sluice_streams set (fillfactor = 90)',
      'table sluice_streams lacks the setting fillfactor=50',
    ],
    [
      'a row of the bookkeeping',
      'delete from {s}._sqlx_migrations where version = 4',
      'pgqrs migration 4 is not in _sqlx_migrations',
    ],
    [
      'the version',
      'delete from {s}.sluice_migrations',
      'migration 4 (plans that no statistics change; walks that are shared) of pg-sluice is not finished',
    ],
    [
      'a foreign key that is back',
      `alter table {s}.pgqrs_messages add constraint "Any Name" foreign key (queue_id) references {s}.pgqrs_queues (id)`,
      'foreign key from pgqrs_messages to pgqrs_queues is still there: it checks every row',
    ],
    [
      "the workflow's foreign key that is back",
      'alter table {s}.pgqrs_workflow_runs add foreign key (message_id) references {s}.pgqrs_messages (id)',
      'foreign key from pgqrs_workflow_runs to pgqrs_messages is still there: it checks every row',
    ],
    [
      "an index of pgqrs' that is back",
      'create index idx_pgqrs_messages_producer_worker_id on {s}.pgqrs_messages (producer_worker_id)',
      'index idx_pgqrs_messages_producer_worker_id of pgqrs is still there: it slows every write',
    ],
  ];
  for (const [name, change, ...expected] of MENDED) {
    test(`names it, and install() mends it: ${name}`, async () => {
      const here = await installed();
      await here.sql(change.replaceAll('{s}', here.s));
      const error = await here.admin.verify().catch((thrown: unknown) => thrown);
      expect((error as SchemaMismatchError).findings).toEqual(expected);
      expect((error as Error).message).toContain('admin.install() mends this');
      await here.admin.install();
      await here.admin.verify();
    });
  }

  const REFUSED: [name: string, sql: string, finding: string][] = [
    [
      'a column',
      'alter table {s}.pgqrs_workers drop column shutdown_at',
      'column pgqrs_workers.shutdown_at (timestamptz) is missing',
    ],
    [
      'the type of a column',
      'alter table {s}.pgqrs_messages alter column read_ct type bigint',
      'column pgqrs_messages.read_ct is of type int8, not int4',
    ],
    [
      'the type of our column',
      'alter table {s}.sluice_streams alter column position type varchar',
      'column sluice_streams.position is of type varchar, not text',
    ],
    [
      'the type of a column that refers to another table',
      `drop trigger sluice_check_update on {s}.pgqrs_messages;
       alter table {s}.pgqrs_messages alter column producer_worker_id type text`,
      'column pgqrs_messages.producer_worker_id is of type text, not int8',
    ],
    [
      'the default that makes a message due',
      'alter table {s}.pgqrs_messages alter column vt drop default',
      'column pgqrs_messages.vt has no default',
    ],
    [
      'a column that must not be null',
      'alter table {s}.pgqrs_messages alter column queue_id drop not null',
      'column pgqrs_messages.queue_id allows null',
    ],
    [
      'a primary key',
      'alter table {s}.pgqrs_messages drop constraint pgqrs_messages_pkey',
      'table pgqrs_messages has no unique key on (id)',
    ],
    [
      'a unique key',
      'alter table {s}.pgqrs_queues drop constraint pgqrs_queues_queue_name_key',
      'table pgqrs_queues has no unique key on (queue_name)',
    ],
    [
      'a foreign key that stays',
      'alter table {s}.pgqrs_workers drop constraint pgqrs_workers_queue_id_fkey',
      'foreign key from pgqrs_workers to pgqrs_queues is missing',
    ],
    [
      'a label of an enum',
      "alter type {s}.worker_status rename value 'polling' to 'asking'",
      'type worker_status has no label polling',
    ],
    [
      'a checksum',
      "update {s}._sqlx_migrations set checksum = '\\xda76' where version = 6",
      'pgqrs migration 6 (create workflow tables) has another checksum: installed by a pgqrs other than 0.15.2 or 0.15.3',
    ],
    [
      'a migration that failed',
      'update {s}._sqlx_migrations set success = false where version = 3',
      'pgqrs migration 3 (create worker table) failed half-way',
    ],
    [
      'our version table',
      'alter table {s}.sluice_migrations rename column version to v',
      'column sluice_migrations.version (int4) is missing',
    ],
  ];
  for (const [name, change, expected] of REFUSED) {
    test(`names it, and install() leaves it to a person: ${name}`, async () => {
      const here = await installed();
      await here.sql(change.replaceAll('{s}', here.s));
      // Something that could be mended, to see that it is not, since not all can.
      await here.sql(`drop trigger sluice_truncated on ${here.s}.pgqrs_queues`);
      const before = await catalogue(here);
      const found = await findings(here.admin);
      expect(found).toContain(expected);
      expect(found).toContain('trigger sluice_truncated on pgqrs_queues is missing');
      const error = await here.admin.install().catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(SchemaMismatchError);
      expect((error as SchemaMismatchError).findings).toEqual([expected]);
      expect(await catalogue(here)).toEqual(before);
    });
  }

  test("a type of pgqrs' is made again", async () => {
    const here = await installed();
    await here.sql(`drop type ${here.s}.pgqrs_workflow_status cascade`);
    expect(await findings(here.admin)).toEqual([
      'type pgqrs_workflow_status is missing',
      'column pgqrs_workflow_runs.status (pgqrs_workflow_status) is missing',
      'column pgqrs_workflow_steps.status (pgqrs_workflow_status) is missing',
    ]);
    await here.sql(`drop table ${here.s}.pgqrs_workflow_runs, ${here.s}.pgqrs_workflow_steps`);
    await here.admin.install();
    await here.admin.verify();
  });

  test('orphans of each kind are counted', async () => {
    const { admin, s, sql } = await installed();
    const queue = await admin.createQueue('work');
    const behindTheGuards = (statement: string) =>
      sql(`begin; set local session_replication_role = replica; ${statement}; commit`);
    await behindTheGuards(
      `insert into ${s}.pgqrs_messages (queue_id, payload) select 987654, '{}' from generate_series(1, 2)`,
    );
    expect(await findings(admin)).toEqual(['2 message(s) refer to a queue that does not exist']);
    await sql(`delete from ${s}.pgqrs_messages`);

    await behindTheGuards(
      `insert into ${s}.pgqrs_messages (queue_id, payload, producer_worker_id, archived_at) values (${queue.id}, '{}', 77, now())`,
    );
    expect(await findings(admin)).toEqual(['1 message(s) refer to a producer worker that does not exist']);
    await sql(`update ${s}.pgqrs_messages set producer_worker_id = null`);

    await behindTheGuards(`update ${s}.pgqrs_messages set consumer_worker_id = 78`);
    expect(await findings(admin)).toEqual(['1 message(s) refer to a consumer worker that does not exist']);
    await sql(`update ${s}.pgqrs_messages set consumer_worker_id = null`);
    await admin.verify();

    await sql(`insert into ${s}.pgqrs_workflows (name, queue_id) values ('flow', ${queue.id})`);
    await behindTheGuards(
      `insert into ${s}.pgqrs_workflow_runs (workflow_id, message_id, status) select id, 4711, 'QUEUED' from ${s}.pgqrs_workflows`,
    );
    const error = await admin.verify().catch((thrown: unknown) => thrown);
    expect((error as SchemaMismatchError).findings).toEqual([
      '1 workflow run(s) refer to a message that does not exist',
    ]);
    expect((error as Error).message).toContain('admin.install() cannot mend all of this');
  });
});
