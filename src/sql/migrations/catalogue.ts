import type { Queryable } from '../../db.js';
import { statement } from '../statement.js';

/** What the server's catalogue says about our schema, as far as install() and verify() care. */
export interface Catalogue {
  /** The schema's name as a quoted identifier. */
  schema: string;
  schemaExists: boolean;
  role: string;
  database: string;
  /** Whether the role may create tables in the schema, or the schema itself while that is missing. */
  mayCreate: boolean;
  /** Tables of another owner, which the role may not alter. */
  notOwned: string[];
  /** Enum types and their labels, in order. */
  types: Record<string, string[]>;
  tables: Record<string, Record<string, Column>>;
  /** Columns of the valid unique indexes of each table that cover all its rows, as `a, b`. */
  keys: Record<string, string[]>;
  indexes: Record<string, { definition: string; valid: boolean }>;
  foreignKeys: { name: string; table: string; references: string }[];
  /** Our functions by name and arguments: what stands before the body, and the body. */
  functions: Record<string, { head: string; body: string }>;
  /** Our triggers, as `table.name`; `calls` names a function of our schema. */
  triggers: Record<string, { definition: string; calls: string | null; enabled: boolean }>;
  /** Storage settings per table, as `name=value`. */
  settings: Record<string, string[]>;
  /** Rows of pgqrs' bookkeeping by version, with their checksums in hex. */
  pgqrsMigrations: Record<string, { checksum: string; success: boolean }>;
  /** 0 before the first installation is finished. */
  sluiceVersion: number;
}

export interface Column {
  /** As pg_type calls it. */
  type: string;
  /** NOT NULL. */
  required: boolean;
  /** Has a default or is an identity. */
  filled: boolean;
}

const READ_CATALOGUE = statement(
  'read_catalogue',
  () => `
  with home as (select oid from pg_catalog.pg_namespace where nspname = $1),
  relations as (
    select c.* from pg_catalog.pg_class c join home on c.relnamespace = home.oid
    where c.relkind in ('r', 'p') and (c.relname = '_sqlx_migrations' or c.relname::text ~ '^(pgqrs|sluice)_'))
  select exists (select from home) as "schemaExists", current_user::text as role, current_database()::text as database,
    coalesce((select pg_catalog.has_schema_privilege(oid, 'CREATE') from home),
      pg_catalog.has_database_privilege(current_database(), 'CREATE')) as "mayCreate",
    (select coalesce(pg_catalog.jsonb_agg(relname order by relname), '[]') from relations
      where not pg_catalog.pg_has_role(relowner, 'USAGE')) as "notOwned",
    (select coalesce(pg_catalog.jsonb_object_agg(typname, labels), '{}') from (
      select t.typname, pg_catalog.jsonb_agg(e.enumlabel order by e.enumsortorder) as labels
      from pg_catalog.pg_type t join home on t.typnamespace = home.oid join pg_catalog.pg_enum e on e.enumtypid = t.oid
      group by t.typname) found) as types,
    (select coalesce(pg_catalog.jsonb_object_agg(relname, columns), '{}') from (
      select c.relname, pg_catalog.jsonb_object_agg(a.attname, pg_catalog.jsonb_build_object(
        'type', t.typname, 'required', a.attnotnull, 'filled', a.atthasdef or a.attidentity <> '')) as columns
      from relations c
      join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      join pg_catalog.pg_type t on t.oid = a.atttypid
      group by c.relname) found) as tables,
    (select coalesce(pg_catalog.jsonb_object_agg(relname, keys), '{}') from (
      select c.relname, pg_catalog.jsonb_agg((
        select pg_catalog.string_agg(pg_catalog.pg_get_indexdef(x.indexrelid, n, false), ', ' order by n)
        from pg_catalog.generate_series(1, x.indnkeyatts) n)) as keys
      from relations c join pg_catalog.pg_index x on x.indrelid = c.oid
      where x.indisunique and x.indisvalid and x.indpred is null
      group by c.relname) found) as keys,
    (select coalesce(pg_catalog.jsonb_object_agg(i.relname, pg_catalog.jsonb_build_object(
        'definition', pg_catalog.pg_get_indexdef(i.oid), 'valid', x.indisvalid)), '{}')
      from relations c join pg_catalog.pg_index x on x.indrelid = c.oid
      join pg_catalog.pg_class i on i.oid = x.indexrelid) as indexes,
    (select coalesce(pg_catalog.jsonb_agg(found), '[]') from (
      select k.conname as name, c.relname as "table", target.relname as "references"
      from relations c join pg_catalog.pg_constraint k on k.conrelid = c.oid and k.contype = 'f'
      join relations target on target.oid = k.confrelid) found) as "foreignKeys",
    (select coalesce(pg_catalog.jsonb_object_agg(
        p.proname::text || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')',
        pg_catalog.jsonb_build_object('head', pg_catalog.split_part(pg_catalog.pg_get_functiondef(p.oid), E'\\nAS ', 1), 'body', p.prosrc)), '{}')
      from pg_catalog.pg_proc p join home on p.pronamespace = home.oid
      where p.prokind = 'f' and p.proname::text ~ '^sluice_') as functions,
    (select coalesce(pg_catalog.jsonb_object_agg(c.relname::text || '.' || t.tgname::text, pg_catalog.jsonb_build_object(
        -- The function's name would be qualified or not, as the session's search_path has it.
        'definition', pg_catalog.split_part(pg_catalog.pg_get_triggerdef(t.oid), ' EXECUTE FUNCTION ', 1),
        'calls', (select p.proname from pg_catalog.pg_proc p join home on p.pronamespace = home.oid where p.oid = t.tgfoid),
        'enabled', t.tgenabled in ('O', 'A'))), '{}')
      from relations c join pg_catalog.pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal
      where t.tgname::text ~ '^sluice_') as triggers,
    (select coalesce(pg_catalog.jsonb_object_agg(relname, pg_catalog.to_jsonb(reloptions)), '{}')
      from relations where reloptions is not null) as settings`,
);

const READ_PGQRS_MIGRATIONS = statement(
  'read_pgqrs_migrations',
  (s) =>
    `select version::text, encode(checksum, 'hex') as checksum, success from ${s}._sqlx_migrations order by version`,
);

const READ_SLUICE_VERSION = statement(
  'read_sluice_version',
  (s) => `select coalesce(max(version), 0) as version from ${s}.sluice_migrations`,
);

type Found = Omit<Catalogue, 'schema' | 'pgqrsMigrations' | 'sluiceVersion'>;
interface PgqrsMigration {
  version: string;
  checksum: string;
  success: boolean;
}

export async function readCatalogue(on: Queryable, schemaName: string): Promise<Catalogue> {
  const [found] = (await on.query<Found>(READ_CATALOGUE(on.schema), [schemaName])) as [Found];
  const { _sqlx_migrations, sluice_migrations } = found.tables;
  // Read only where the columns are as expected: a table of that name may be anybody's.
  const pgqrs =
    _sqlx_migrations?.version && _sqlx_migrations.checksum?.type === 'bytea' && _sqlx_migrations.success
      ? await on.query<PgqrsMigration>(READ_PGQRS_MIGRATIONS(on.schema))
      : [];
  const [sluice] =
    sluice_migrations?.version?.type === 'int4'
      ? await on.query<{ version: number }>(READ_SLUICE_VERSION(on.schema))
      : [];
  return {
    ...found,
    schema: on.schema,
    pgqrsMigrations: Object.fromEntries(pgqrs.map(({ version, ...rest }) => [version, rest])),
    sluiceVersion: sluice?.version ?? 0,
  };
}
