import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  Admin,
  Config,
  connect,
  DatabaseError,
  PermissionDeniedError,
  Producer,
  SchemaMismatchError,
  SchemaNotInstalledError,
} from '../src/index.js';
import { databaseUrl, freshSchema } from './support/database.js';
import { eventually, within } from './support/eventually.js';
import { numbered } from './support/scenario.js';

interface Home {
  url: string;
  schema: string;
  /** Quoted. */
  s: string;
  pool: pg.Pool;
  admin: Admin;
  /** Another Admin with a pool of its own. */
  another: (url?: string) => Promise<Admin>;
  sql: <Row = Record<string, unknown>>(text: string) => Promise<Row[]>;
}

/** A schema's name for which nothing exists yet, and an Admin for it. */
async function home(name?: string): Promise<Home> {
  const fresh = freshSchema();
  const schema = name ?? fresh.schema;
  const s = pg.escapeIdentifier(schema);
  const admins: Admin[] = [];
  const another = async (url = fresh.url) => {
    const admin = await Admin.create(Config.fromDsn(url, { schema, maxConnections: 4 }));
    admins.push(admin);
    return admin;
  };
  onTestFinished(async () => {
    await Promise.all(admins.map((admin) => admin.close()));
    await fresh.pool.query(`drop schema if exists ${s} cascade`);
    await fresh.drop();
  });
  const sql = async <Row>(text: string) => (await fresh.pool.query(text)).rows as Row[];
  return { url: fresh.url, schema, s, pool: fresh.pool, admin: await another(), another, sql };
}

async function installed(name?: string): Promise<Home> {
  const here = await home(name);
  await here.admin.install();
  return here;
}

/** Everything that the catalogue knows of the schema, with its oids: equal only if nothing was made, changed or dropped. */
async function catalogue({ sql, schema }: Pick<Home, 'sql' | 'schema'>): Promise<string[]> {
  const rows = await sql<{ line: string }>(`
    with home as (select oid from pg_namespace where nspname = ${pg.escapeLiteral(schema)}),
    relations as (select c.* from pg_class c join home on relnamespace = home.oid)
    select line from (
      select format('relation %s %s %s %s', oid, relname, relkind, reloptions) as line from relations
      union all select format('column %s %s %s', attrelid, attname, atttypid) from pg_attribute
        where attrelid in (select oid from relations) and attnum > 0
      union all select format('type %s %s', t.oid, typname) from pg_type t join home on typnamespace = home.oid
      union all select format('function %s %s %s', p.oid, proname, md5(prosrc)) from pg_proc p join home on pronamespace = home.oid
      union all select format('constraint %s %s', c.oid, conname) from pg_constraint c join home on connamespace = home.oid
      union all select format('trigger %s %s %s', oid, tgname, tgenabled) from pg_trigger where tgrelid in (select oid from relations)
    ) found order by line`);
  return rows.map(({ line }) => line);
}

async function findings(admin: Admin): Promise<readonly string[]> {
  const error = await admin.verify().then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error === undefined) return [];
  expect(error).toBeInstanceOf(SchemaMismatchError);
  return (error as SchemaMismatchError).findings;
}

const unique = () => randomBytes(4).toString('hex');

describe('install', () => {
  test('makes all of it in a schema that is not there yet, and changes nothing when it is called again', async () => {
    const here = await home();
    await here.admin.install();
    await here.admin.verify();
    const before = await catalogue(here);
    expect(before.length).toBeGreaterThan(100);
    await here.admin.install();
    expect(await catalogue(here)).toEqual(before);
  });

  test('works in public, the default schema of a new database, and so does everything after it', async () => {
    const database = `test_${randomBytes(6).toString('hex')}`;
    const server = freshSchema();
    await server.pool.query(`create database ${database}`);
    onTestFinished(async () => {
      await server.pool.query(`drop database if exists ${database} with (force)`);
      await server.drop();
    });
    const url = new URL(server.url);
    url.pathname = database;
    const sluice = await connect(url.href);
    onTestFinished(() => sluice.close().catch(() => undefined));
    await sluice.admin.install();
    await sluice.admin.install();
    await sluice.admin.verify();
    await sluice.admin.createQueue('work');
    await (await sluice.producer('work')).ingest(numbered(3));
    expect(await (await sluice.consumer('work')).dequeueMany(5)).toHaveLength(3);
    await sluice.admin.uninstall();
  });

  test('does not depend on what the search_path of the session shows', async () => {
    const here = await installed();
    const url = new URL(here.url);
    url.searchParams.set('options', `-c search_path=${here.schema},public`);
    const admin = await here.another(url.href);
    await admin.verify();
    await admin.install();
  });

  test('eight processes may install an empty schema at once', async () => {
    const here = await home();
    const admins = await Promise.all(Array.from({ length: 8 }, () => here.another()));
    await within(20_000, 'eight installs', Promise.all(admins.map((admin) => admin.install())));
    await here.admin.verify();
    expect(await here.sql(`select version from ${here.s}.sluice_migrations`)).toEqual([{ version: 1 }]);
  });

  const names = {
    'capital letters': `Queues_${unique()}`,
    'dollar signs that look like quotes': `a$function$b$$body$_${unique()}`,
    'letters beyond ASCII': `Schlänge_очередь_${unique()}`,
    '63 bytes': `x${unique()}`.padEnd(63, '_y'),
  };
  for (const [kind, name] of Object.entries(names)) {
    test(`a schema name may have ${kind}`, async () => {
      const { admin, another, s, sql } = await installed(name);
      await admin.verify();
      const config = Config.fromDsn(databaseUrl(), { schema: name });
      const queue = await admin.createQueue('work');
      const producer = await Producer.create({ pool: admin.pool, queue, config });
      await producer.ingest(numbered(10), { method: 'copy', batchSize: 5 });
      await producer.ingest(numbered(10), { method: 'insert', batchSize: 5 });
      await producer.close();
      expect(await sql(`select count(*)::int from ${s}.pgqrs_messages`)).toEqual([{ count: 20 }]);
      await admin.verify();
      await sql(`drop trigger sluice_check_run on ${s}.pgqrs_workflow_runs`);
      await (await another()).install();
      await admin.verify();
      await admin.uninstall();
      expect(await catalogue({ sql, schema: name })).toEqual([]);
    });
  }

  test("somebody's own tables, functions and types in the schema are left alone", async () => {
    const here = await home();
    await here.sql(`create schema ${here.s}`);
    await here.sql(`
      create table ${here.s}.orders (id int primary key);
      create aggregate ${here.s}.sluice_total (int) (sfunc = int4pl, stype = int);
      create type ${here.s}.mood as enum ('fine');
      create view ${here.s}.todays as select 1 as one`);
    const before = await catalogue(here);
    await here.admin.install();
    await here.admin.verify();
    await here.admin.uninstall();
    expect(await catalogue(here)).toEqual(before);
  });

  for (const [kind, sql] of Object.entries({
    'a view': 'create view {s}.sluice_streams as select 1 as one',
    'an index': 'create table {s}.t (n int); create index sluice_messages_due on {s}.t (n)',
  })) {
    test(`${kind} with the name of something of ours fails it as a whole`, async () => {
      const here = await home();
      await here.sql(`create schema ${here.s}`);
      await here.sql(sql.replaceAll('{s}', here.s));
      const before = await catalogue(here);
      await expect(here.admin.install()).rejects.toThrow(DatabaseError);
      expect(await catalogue(here)).toEqual(before);
    });
  }

  test('a schema of a newer version is refused, by verify() too', async () => {
    const { admin, s, sql } = await installed();
    await sql(`insert into ${s}.sluice_migrations (version, name) values (99, 'from the future')`);
    await sql(`drop trigger sluice_check_run on ${s}.pgqrs_workflow_runs`);
    for (const call of [admin.install(), admin.verify()]) {
      const error = await call.catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(SchemaMismatchError);
      expect((error as SchemaMismatchError).message).toContain('newer pg-sluice');
      expect((error as SchemaMismatchError).findings).toEqual(['schema version 99, this library knows 1']);
    }
  });
});

describe('install without the privileges', () => {
  /** A role that may log in and nothing else. */
  async function roleOf({ sql, s }: Home): Promise<{ role: string; url: string }> {
    const role = `test_role_${unique()}`;
    await sql(`create role ${role} login password 'pw'`);
    onTestFinished(async () => {
      // After the schema: it was registered first, and what finishes runs in reverse.
      await sql(`drop schema if exists ${s} cascade`);
      await sql(`drop owned by ${role}`);
      await sql(`drop role ${role}`);
    });
    const url = new URL(databaseUrl());
    url.username = role;
    url.password = 'pw';
    return { role, url: url.href };
  }

  test('says what to grant, first on the database, then on the schema, and then works', async () => {
    const here = await home();
    const { role, url } = await roleOf(here);
    const admin = await here.another(url);
    const [{ database }] = (await here.sql('select current_database() as database')) as [
      { database: string },
    ];

    const first = await admin.install().catch((error: unknown) => error);
    expect(first).toBeInstanceOf(PermissionDeniedError);
    expect((first as Error).message).toContain(`GRANT CREATE ON DATABASE "${database}" TO "${role}"`);

    await here.sql(`create schema ${here.s}; grant usage on schema ${here.s} to ${role}`);
    const second = await admin.install().catch((error: unknown) => error);
    expect(second).toBeInstanceOf(PermissionDeniedError);
    expect((second as Error).message).toContain(`GRANT CREATE ON SCHEMA "${here.schema}" TO "${role}"`);
    expect(await catalogue(here)).toEqual([]);

    await here.sql(`grant create on schema ${here.s} to ${role}`);
    await admin.install();
    await admin.verify();
    const queue = await admin.createQueue('work');
    const producer = await Producer.create({
      pool: admin.pool,
      queue,
      config: Config.fromDsn(url, { schema: here.schema }),
    });
    expect((await producer.ingest(numbered(10))).committed).toBe(10);
    await producer.close();
  });

  test('a read-only session is refused, and nothing is left', async () => {
    const here = await home();
    const url = new URL(databaseUrl());
    url.searchParams.set('options', '-c default_transaction_read_only=on');
    const admin = await here.another(url.href);
    await expect(admin.install()).rejects.toThrow(PermissionDeniedError);
    expect(await here.sql(`select from pg_namespace where nspname = '${here.schema}'`)).toEqual([]);
  });

  test("over somebody else's tables it is refused before the first change", async () => {
    const here = await installed();
    const { role, url } = await roleOf(here);
    await here.sql(`
      grant usage, create on schema ${here.s} to ${role};
      grant select on all tables in schema ${here.s} to ${role};
      drop table ${here.s}.sluice_workers;
      alter table ${here.s}.pgqrs_messages drop column origin cascade`);
    const before = await catalogue(here);
    const error = await (await here.another(url)).install().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(PermissionDeniedError);
    expect((error as Error).message).toContain('pgqrs_messages');
    expect((error as Error).message).toContain('run it as the owner');
    expect(await catalogue(here)).toEqual(before);
  });

  test('a role that may only read finds a finished installation finished', async () => {
    const here = await installed();
    const { role, url } = await roleOf(here);
    await here.sql(`grant usage on schema ${here.s} to ${role}`);
    await here.sql(`grant select on all tables in schema ${here.s} to ${role}`);
    const admin = await here.another(url);
    await admin.install();
    await admin.verify();
  });
});

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
      'drop function {s}.sluice_advance(bigint, bigint, bigint, text)',
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
      'migration 1 (first schema) of pg-sluice is not finished',
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
      'migration 1 (first schema) of pg-sluice is not finished',
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

describe('uninstall', () => {
  test('leaves nothing of ours and all that is not, and may be called again', async () => {
    const here = await home();
    await here.sql(
      `create schema ${here.s}; create table ${here.s}.orders (id serial primary key, total int)`,
    );
    const before = await catalogue(here);
    await here.admin.install();
    await here.admin.createQueue('work');
    await here.admin.uninstall();
    expect(await catalogue(here)).toEqual(before);
    await here.admin.uninstall();
    expect(await catalogue(here)).toEqual(before);
    await here.admin.install();
    await here.admin.verify();
  });

  test('of a schema that is not there is nothing', async () => {
    const { admin } = await home();
    await admin.uninstall();
  });

  test("another application's migrations stay in the bookkeeping", async () => {
    const { admin, s, sql } = await installed();
    await sql(`insert into ${s}._sqlx_migrations values (7, 'theirs', now(), true, '\\x00', 1)`);
    await admin.uninstall();
    expect(await sql(`select version::int from ${s}._sqlx_migrations`)).toEqual([{ version: 7 }]);
    await admin.uninstall();
    await admin.install();
    await admin.verify();
  });

  test('what somebody built on our tables is not torn down: nothing is removed', async () => {
    const here = await installed();
    await here.sql(`create view ${here.s}.depth as select count(*) from ${here.s}.pgqrs_messages`);
    const before = await catalogue(here);
    await expect(here.admin.uninstall()).rejects.toThrow(/other objects depend on it/);
    expect(await catalogue(here)).toEqual(before);
  });
});
