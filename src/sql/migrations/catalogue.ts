import type { Queryable } from '../../db.js';
import { statement } from '../statement.js';

/** What the server's catalogue says about our schema, as far as install() and verify() care. */
export interface Catalogue {
  schemaExists: boolean;
  /** Enum types and their labels, in order. */
  types: Record<string, string[]>;
  /** Tables, their columns and each column's type name. */
  tables: Record<string, Record<string, string>>;
  indexes: { name: string; table: string; columns: string[]; partial: boolean; valid: boolean }[];
  foreignKeys: { name: string; table: string; references: string }[];
  functions: Record<string, string>;
  /** Enabled triggers, as `table.name`, and the function each calls. */
  triggers: Record<string, string>;
  /** Storage settings per table, as `name=value`. */
  settings: Record<string, string[]>;
  /** Versions in pgqrs' bookkeeping, with their checksums in hex. */
  pgqrsVersions: Record<string, string>;
  sluiceVersion: number;
}

const READ_CATALOGUE = statement(
  'read_catalogue',
  () => `
  with home as (select oid from pg_catalog.pg_namespace where nspname = $1),
  relations as (select c.* from pg_catalog.pg_class c join home on c.relnamespace = home.oid where c.relkind in ('r', 'p'))
  select exists (select from home) as "schemaExists",
    (select coalesce(jsonb_object_agg(typname, labels), '{}') from (
      select t.typname, jsonb_agg(e.enumlabel order by e.enumsortorder) as labels
      from pg_catalog.pg_type t join home on t.typnamespace = home.oid join pg_catalog.pg_enum e on e.enumtypid = t.oid
      group by t.typname) found) as types,
    (select coalesce(jsonb_object_agg(relname, columns), '{}') from (
      select c.relname, jsonb_object_agg(a.attname, t.typname) as columns
      from relations c
      join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      join pg_catalog.pg_type t on t.oid = a.atttypid
      group by c.relname) found) as tables,
    (select coalesce(jsonb_agg(found), '[]') from (
      select i.relname as name, c.relname as "table", x.indpred is not null as partial, x.indisvalid as valid,
        (select jsonb_agg(pg_catalog.pg_get_indexdef(x.indexrelid, n, false) order by n)
          from generate_series(1, x.indnkeyatts) n) as columns
      from relations c join pg_catalog.pg_index x on x.indrelid = c.oid join pg_catalog.pg_class i on i.oid = x.indexrelid
      ) found) as indexes,
    (select coalesce(jsonb_agg(found), '[]') from (
      select k.conname as name, c.relname as "table", target.relname as "references"
      from relations c join pg_catalog.pg_constraint k on k.conrelid = c.oid and k.contype = 'f'
      join relations target on target.oid = k.confrelid) found) as "foreignKeys",
    (select coalesce(jsonb_object_agg(p.proname, p.prosrc), '{}')
      from pg_catalog.pg_proc p join home on p.pronamespace = home.oid) as functions,
    (select coalesce(jsonb_object_agg(c.relname || '.' || t.tgname, p.proname), '{}')
      from relations c join pg_catalog.pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled in ('O', 'A')
      join pg_catalog.pg_proc p on p.oid = t.tgfoid) as triggers,
    (select coalesce(jsonb_object_agg(relname, to_jsonb(reloptions)), '{}')
      from relations where reloptions is not null) as settings`,
);

const READ_PGQRS_VERSIONS = statement(
  'read_pgqrs_versions',
  (schema) =>
    `select version::text, encode(checksum, 'hex') as checksum from ${schema}._sqlx_migrations where success`,
);

const READ_SLUICE_VERSION = statement(
  'read_sluice_version',
  (schema) => `select coalesce(max(version), 0) as version from ${schema}.sluice_migrations`,
);

export async function readCatalogue(on: Queryable, schemaName: string): Promise<Catalogue> {
  type Found = Omit<Catalogue, 'pgqrsVersions' | 'sluiceVersion'>;
  const [found] = (await on.query<Found>(READ_CATALOGUE(on.schema), [schemaName])) as [Found];
  const pgqrs = found.tables._sqlx_migrations
    ? await on.query<{ version: string; checksum: string }>(READ_PGQRS_VERSIONS(on.schema))
    : [];
  const [sluice] = found.tables.sluice_migrations
    ? await on.query<{ version: number }>(READ_SLUICE_VERSION(on.schema))
    : [];
  return {
    ...found,
    pgqrsVersions: Object.fromEntries(pgqrs.map(({ version, checksum }) => [version, checksum])),
    sluiceVersion: sluice?.version ?? 0,
  };
}
