import { randomBytes } from 'node:crypto';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  Config,
  connect,
  DatabaseError,
  PermissionDeniedError,
  Producer,
  SchemaMismatchError,
} from '../../src/index.js';
import { databaseUrl, freshSchema } from '../support/database.js';
import { within } from '../support/eventually.js';
import { numbered } from '../support/scenario.js';
import { type Home, home, installed, catalogue, unique } from './support.js';

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
    expect(await here.sql(`select version from ${here.s}.sluice_migrations`)).toEqual([{ version: 4 }]);
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
      expect((error as SchemaMismatchError).findings).toEqual(['schema version 99, this library knows 4']);
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
