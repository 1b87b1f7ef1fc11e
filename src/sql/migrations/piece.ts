import { literal } from '../../db.js';
import type { Catalogue } from './catalogue.js';
import { columnsOf, keysOf, referencesOf } from './table-body.js';

/**
 * One thing that the schema must have, or must not have. `install()` mends what differs, `verify()` reports it:
 * both ask the same question of the same pieces, so that they can't disagree.
 */
export interface Piece {
  /** The table that it belongs to: while that is missing there is nothing to say about it and nothing to do. */
  on?: string;
  /** What is wrong, in words for a person; nothing when all is well. */
  differs(found: Catalogue): string | undefined;
  /** Statements that set it right; none when only a person can, since somebody's data is at stake. */
  mend(found: Catalogue): readonly string[];
  /** Statements that remove it, for `uninstall()`. */
  remove?(found: Catalogue): readonly string[];
}

const CONCURRENTLY = /^((?:create|drop) index) concurrently /;

/** An index that is built or dropped without blocking writers: not possible inside a transaction. */
export function runsAlone(sql: string): boolean {
  return CONCURRENTLY.test(sql);
}

/** The same inside a transaction, for tables that nobody uses yet. */
export function inTransaction(sql: string): string {
  return sql.replace(CONCURRENTLY, '$1 ');
}

export function schema(): Piece {
  return {
    differs: (found) => (found.schemaExists ? undefined : `schema ${found.schema} is missing`),
    mend: (found) => [`create schema ${found.schema}`],
  };
}

export function type(name: string, labels: readonly string[]): Piece {
  return {
    differs: ({ types }) => {
      if (!types[name]) return `type ${name} is missing`;
      const missing = labels.filter((label) => !types[name]?.includes(label));
      return missing.length === 0 ? undefined : `type ${name} has no label ${missing.join(', ')}`;
    },
    mend: ({ schema, types }) =>
      types[name] ? [] : [`create type ${schema}.${name} as enum (${labels.map(literal).join(', ')})`],
    remove: ({ schema, types }) => (types[name] ? [`drop type ${schema}.${name}`] : []),
  };
}

/**
 * A table that is there but different is left to a person: it belongs to another version, or somebody changed it.
 * @param body the lines between the parentheses of CREATE TABLE, one column or table constraint each
 */
export function table(name: string, body: (schema: string) => string): Piece {
  const columns = Object.entries(columnsOf(body('s')));
  const keys = keysOf(body('s'));
  const references = referencesOf(body('s'));
  return {
    differs: (found) => {
      const present = found.tables[name];
      if (!present) return `table ${name} is missing`;
      const wrong = [
        ...columns.map(([column, expected]) => {
          const is = present[column];
          if (!is) return `column ${name}.${column} (${expected.type}) is missing`;
          if (is.type !== expected.type)
            return `column ${name}.${column} is of type ${is.type}, not ${expected.type}`;
          if (expected.filled && !is.filled) return `column ${name}.${column} has no default`;
          return expected.required && !is.required ? `column ${name}.${column} allows null` : undefined;
        }),
        // A missing column has taken its keys along.
        ...keys
          .filter((key) => key.every((column) => present[column]))
          .map((key) => key.join(', '))
          .filter((key) => !found.keys[name]?.includes(key))
          .map((key) => `table ${name} has no unique key on (${key})`),
        ...references
          .filter(([column, target]) => present[column] && foreignKeys(found, name, target).length === 0)
          .map(([, target]) => `foreign key from ${name} to ${target} is missing`),
      ].filter((finding) => finding !== undefined);
      return wrong.length === 0 ? undefined : wrong.join('; ');
    },
    mend: ({ schema, tables }) => (tables[name] ? [] : [`create table ${schema}.${name} (${body(schema)})`]),
    remove: ({ schema, tables }) => (tables[name] ? [`drop table ${schema}.${name}`] : []),
  };
}

/** A nullable column of ours on a table of pgqrs'. */
export function column(on: string, name: string, typeName: 'smallint'): Piece {
  return {
    on,
    differs: ({ tables }) => {
      const is = tables[on]?.[name];
      if (!is) return `column ${on}.${name} is missing`;
      return is.type === 'int2' ? undefined : `column ${on}.${name} is of type ${is.type}, not int2`;
    },
    mend: ({ schema, tables }) =>
      tables[on]?.[name] ? [] : [`alter table ${schema}.${on} add column ${name} ${typeName}`],
  };
}

/** @param definition what stands behind the table's name, as the server prints it */
export function index(name: string, on: string, definition: string): Piece {
  return {
    on,
    differs: ({ schema, indexes }) => {
      const is = indexes[name];
      if (!is) return `index ${name} is missing`;
      if (!is.valid) return `index ${name} is invalid: its build was interrupted`;
      return same(is.definition, `create index ${name} on ${schema}.${on} ${definition}`)
        ? undefined
        : `index ${name} is not this version's`;
    },
    mend: ({ schema, indexes }) => [
      ...(indexes[name] ? [`drop index concurrently ${schema}.${name}`] : []),
      `create index concurrently ${name} on ${schema}.${on} ${definition}`,
    ],
  };
}

/** An index of pgqrs' that costs on every write and that no query of ours needs. By its name: others are the user's own. */
export function withoutIndex(on: string, name: string): Piece {
  return {
    on,
    differs: ({ indexes }) =>
      indexes[name] ? `index ${name} of pgqrs is still there: it slows every write` : undefined,
    mend: ({ schema }) => [`drop index concurrently ${schema}.${name}`],
  };
}

/** A foreign key of pgqrs' that checks row by row what triggers.ts checks once per statement. By its tables: names vary. */
export function withoutForeignKey(on: string, references: string): Piece {
  return {
    on,
    differs: (found) =>
      foreignKeys(found, on, references).length === 0
        ? undefined
        : `foreign key from ${on} to ${references} is still there: it checks every row`,
    mend: (found) =>
      foreignKeys(found, on, references).map(
        ({ name }) => `alter table ${found.schema}.${on} drop constraint ${quote(name)}`,
      ),
  };
}

/**
 * @param args as the server prints them: `name type, …` with its own names of the types
 * @param attributes what stands between the arguments and the body, as the server prints it
 * @param body compared character by character
 */
export function routine(
  name: string,
  args: string,
  attributes: string,
  body: (schema: string) => string,
): Piece {
  const signature = `${name}(${args})`;
  const head = (schema: string) =>
    `create or replace function ${schema}.${signature} ${attributes} set search_path to 'pg_catalog', 'pg_temp'`;
  return {
    differs: ({ schema, functions }) => {
      const is = functions[signature];
      if (!is) return `function ${name} is missing`;
      return same(is.head, head(schema)) && is.body === body(schema)
        ? undefined
        : `function ${name} is not this version's`;
    },
    // No dollar quotes: a schema's name may contain any of them.
    mend: ({ schema }) => [`${head(schema)} as ${literal(body(schema))}`],
    remove: ({ schema, functions }) => (functions[signature] ? [`drop function ${schema}.${signature}`] : []),
  };
}

/** @param definition what stands between the name and EXECUTE FUNCTION, as the server prints it */
export function trigger(
  name: string,
  on: string,
  calls: string,
  definition: (onTable: string) => string,
): Piece {
  const found = ({ triggers }: Catalogue) => triggers[`${on}.${name}`];
  const head = (schema: string) => `create trigger ${name} ${definition(`on ${schema}.${on}`)}`;
  const create = (schema: string) => `${head(schema)} execute function ${schema}.${calls}()`;
  const drop = (schema: string) => `drop trigger ${name} on ${schema}.${on}`;
  return {
    on,
    differs: (catalogue) => {
      const is = found(catalogue);
      if (!is) return `trigger ${name} on ${on} is missing`;
      if (!is.enabled) return `trigger ${name} on ${on} is disabled`;
      return same(is.definition, head(catalogue.schema)) && is.calls === calls
        ? undefined
        : `trigger ${name} on ${on} is not this version's`;
    },
    mend: (catalogue) => [...(found(catalogue) ? [drop(catalogue.schema)] : []), create(catalogue.schema)],
    remove: (catalogue) => (found(catalogue) ? [drop(catalogue.schema)] : []),
  };
}

export function storage(on: string, settings: Readonly<Record<string, string>>): Piece {
  const pairs = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
  const missing = (found: Catalogue) => pairs.filter((pair) => !found.settings[on]?.includes(pair));
  return {
    on,
    differs: (found) =>
      missing(found).length === 0 ? undefined : `table ${on} lacks the setting ${missing(found).join(', ')}`,
    mend: ({ schema }) => [`alter table ${schema}.${on} set (${pairs.join(', ')})`],
  };
}

/**
 * A row of pgqrs' migration bookkeeping.
 * @param checksums of the editions of its migration file that will do; the first is written
 */
export function bookkeeping(
  version: number,
  description: string,
  checksums: readonly (string | undefined)[],
): Piece {
  return {
    on: '_sqlx_migrations',
    differs: ({ pgqrsMigrations }) => {
      const is = pgqrsMigrations[version];
      if (!is) return `pgqrs migration ${version} is not in _sqlx_migrations`;
      if (!is.success) return `pgqrs migration ${version} (${description}) failed half-way`;
      return checksums.includes(is.checksum)
        ? undefined
        : `pgqrs migration ${version} (${description}) has another checksum: installed by a pgqrs other than 0.15.2 or 0.15.3`;
    },
    mend: ({ schema, pgqrsMigrations }) =>
      pgqrsMigrations[version]
        ? []
        : [
            `insert into ${schema}._sqlx_migrations (version, description, success, checksum, execution_time)
             values (${version}, ${literal(description)}, true, '\\x${checksums[0]}', 0) on conflict (version) do nothing`,
          ],
    remove: ({ schema, pgqrsMigrations }) =>
      checksums.includes(pgqrsMigrations[version]?.checksum)
        ? [`delete from ${schema}._sqlx_migrations where version = ${version}`]
        : [],
  };
}

/** Which schema version of ours is in place: the last piece, so that it says that all others are. */
export function version(number: number, name: string): Piece {
  return {
    on: 'sluice_migrations',
    differs: ({ sluiceVersion }) =>
      sluiceVersion >= number ? undefined : `migration ${number} (${name}) of pg-sluice is not finished`,
    mend: ({ schema }) => [
      `insert into ${schema}.sluice_migrations (version, name) values (${number}, ${literal(name)})`,
    ],
  };
}

function foreignKeys(found: Catalogue, from: string, to: string): Catalogue['foreignKeys'] {
  return found.foreignKeys.filter((key) => key.table === from && key.references === to);
}

/** Whether two definitions are the same but for the server's parentheses, quotes, blanks and capitals. */
function same(one: string, other: string): boolean {
  const bare = (definition: string) => definition.toLowerCase().replace(/["()\s]/g, '');
  return bare(one) === bare(other);
}

function quote(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}
