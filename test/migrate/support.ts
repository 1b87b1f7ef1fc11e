import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { expect, onTestFinished } from 'vitest';
import { Admin, Config, SchemaMismatchError } from '../../src/index.js';
import { freshSchema } from '../support/database.js';

export interface Home {
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
export async function home(name?: string): Promise<Home> {
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

export async function installed(name?: string): Promise<Home> {
  const here = await home(name);
  await here.admin.install();
  return here;
}

/** Everything that the catalogue knows of the schema, with its oids: equal only if nothing was made, changed or dropped. */
export async function catalogue({ sql, schema }: Pick<Home, 'sql' | 'schema'>): Promise<string[]> {
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

export async function findings(admin: Admin): Promise<readonly string[]> {
  const error = await admin.verify().then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error === undefined) return [];
  expect(error).toBeInstanceOf(SchemaMismatchError);
  return (error as SchemaMismatchError).findings;
}

export const unique = () => randomBytes(4).toString('hex');
