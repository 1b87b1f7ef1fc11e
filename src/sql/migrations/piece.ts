import type { Catalogue } from './catalogue.js';

/**
 * One thing that the schema must have, or must not have. `install()` mends what differs, `verify()` reports it:
 * both ask the same question of the same pieces, so that they can't disagree.
 */
export interface Piece {
  /** What is wrong, in words for a person; nothing when all is well. */
  differs(found: Catalogue): string | undefined;
  /** Statements that set it right; none when that would touch somebody's data. */
  mend(schema: string, found: Catalogue): readonly string[];
  /** Statements that remove it, for `uninstall()`. */
  remove?(schema: string): readonly string[];
}

/** An index that is built without blocking writers cannot be built inside a transaction. */
export function runsAlone(sql: string): boolean {
  return sql.includes(' index concurrently ');
}

export function type(name: string, labels: readonly string[]): Piece {
  return {
    differs: ({ types }) => {
      if (!types[name]) return `type ${name} is missing`;
      const missing = labels.filter((label) => !types[name]?.includes(label));
      return missing.length === 0 ? undefined : `type ${name} has no label ${missing.join(', ')}`;
    },
    mend: (schema, { types }) =>
      types[name]
        ? []
        : [`create type ${schema}.${name} as enum (${labels.map((label) => `'${label}'`).join(', ')})`],
    remove: (schema) => [`drop type if exists ${schema}.${name}`],
  };
}

/** @param body the lines between the parentheses of CREATE TABLE, one column or table constraint each */
export function table(name: string, body: (schema: string) => string): Piece {
  const expected = columnsOf(body('s'));
  return {
    differs: ({ tables }) => {
      const columns = tables[name];
      if (!columns) return `table ${name} is missing`;
      const wrong = Object.entries(expected)
        .filter(([column, typeName]) => columns[column] !== typeName)
        .map(([column, typeName]) =>
          columns[column]
            ? `column ${name}.${column} is of type ${columns[column]}, not ${typeName}`
            : `column ${name}.${column} (${typeName}) is missing`,
        );
      return wrong.length === 0 ? undefined : wrong.join('; ');
    },
    mend: (schema, { tables }) => (tables[name] ? [] : [`create table ${schema}.${name} (${body(schema)})`]),
    remove: (schema) => [`drop table if exists ${schema}.${name}`],
  };
}

/** A nullable column of ours on a table of pgqrs'. */
export function column(tableName: string, name: string, typeName: 'smallint'): Piece {
  return {
    differs: ({ tables }) =>
      tables[tableName]?.[name] ? undefined : `column ${tableName}.${name} is missing`,
    mend: (schema) => [`alter table ${schema}.${tableName} add column if not exists ${name} ${typeName}`],
  };
}

export function index(name: string, tableName: string, definition: string): Piece {
  const entry = ({ indexes }: Catalogue) => indexes.find((found) => found.name === name);
  return {
    differs: (found) => {
      if (!entry(found)) return `index ${name} is missing`;
      return entry(found)?.valid ? undefined : `index ${name} is invalid: its build was interrupted`;
    },
    mend: (schema, found) => [
      ...(entry(found) ? [`drop index concurrently if exists ${schema}.${name}`] : []),
      `create index concurrently ${name} on ${schema}.${tableName} ${definition}`,
    ],
  };
}

/** An index of pgqrs' that costs on every write and that no query of ours needs. */
export function withoutIndex(tableName: string, columns: readonly string[]): Piece {
  const surplus = ({ indexes }: Catalogue) =>
    indexes.filter((found) => found.table === tableName && found.columns.join() === columns.join());
  return {
    differs: (found) =>
      surplus(found).length === 0
        ? undefined
        : `index on ${tableName} (${columns.join(', ')}) is still there: it slows every write`,
    mend: (schema, found) =>
      surplus(found).map(({ name }) => `drop index concurrently if exists ${schema}.${quote(name)}`),
  };
}

/** A foreign key of pgqrs' that checks row by row what triggers.ts checks once per statement. */
export function withoutForeignKey(tableName: string, references: string): Piece {
  const surplus = ({ foreignKeys }: Catalogue) =>
    foreignKeys.filter((found) => found.table === tableName && found.references === references);
  return {
    differs: (found) =>
      surplus(found).length === 0
        ? undefined
        : `foreign key from ${tableName} to ${references} is still there: it checks every row`,
    mend: (schema, found) =>
      surplus(found).map(
        ({ name }) => `alter table ${schema}.${tableName} drop constraint if exists ${quote(name)}`,
      ),
  };
}

/** @param body the function's source, compared character by character by `verify()` */
export function routine(name: string, signature: string, body: (schema: string) => string): Piece {
  // The body names the schema, so the comparison puts a mark in its place.
  const plain = (source: string | undefined) =>
    source?.replace(/("(?:[^"]|"")+"|\w+)\.(?=(pgqrs|sluice)_)/g, '').trim();
  const expected = plain(body('s'));
  return {
    differs: ({ functions }) => {
      if (functions[name] === undefined) return `function ${name} is missing`;
      return plain(functions[name]) === expected ? undefined : `function ${name} is not this version's`;
    },
    mend: (schema) => [
      `create or replace function ${schema}.${name}${signature} set search_path = pg_catalog, pg_temp as $body$${body(schema)}$body$`,
    ],
    remove: (schema) => [`drop function if exists ${schema}.${name}`],
  };
}

/** @param definition what stands between the name and EXECUTE FUNCTION */
export function trigger(
  name: string,
  tableName: string,
  calls: string,
  definition: (on: string) => string,
): Piece {
  return {
    differs: ({ triggers }) =>
      triggers[`${tableName}.${name}`] === calls
        ? undefined
        : `trigger ${name} on ${tableName} is missing or disabled`,
    mend: (schema) => [
      `drop trigger if exists ${name} on ${schema}.${tableName}`,
      `create trigger ${name} ${definition(`on ${schema}.${tableName}`)} execute function ${schema}.${calls}()`,
    ],
    remove: (schema) => [`drop trigger if exists ${name} on ${schema}.${tableName}`],
  };
}

export function storage(tableName: string, settings: Readonly<Record<string, string>>): Piece {
  const pairs = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
  return {
    differs: (found) => {
      const missing = pairs.filter((pair) => !found.settings[tableName]?.includes(pair));
      return missing.length === 0 ? undefined : `table ${tableName} lacks the setting ${missing.join(', ')}`;
    },
    mend: (schema) => [`alter table ${schema}.${tableName} set (${pairs.join(', ')})`],
  };
}

/** A row of pgqrs' migration bookkeeping: version, description, SHA-384 of its migration file. */
export function bookkeeping(version: number, description: string, checksum: string): Piece {
  return {
    differs: ({ pgqrsVersions }) => {
      const found = pgqrsVersions[version];
      if (found === undefined) return `pgqrs migration ${version} is not in _sqlx_migrations`;
      return found === checksum
        ? undefined
        : `pgqrs migration ${version} (${description}) has another checksum: installed by a pgqrs other than 0.15.2 or 0.15.3`;
    },
    mend: (schema, { pgqrsVersions }) =>
      pgqrsVersions[version] === undefined
        ? [
            `insert into ${schema}._sqlx_migrations (version, description, success, checksum, execution_time)
             values (${version}, '${description}', true, '\\x${checksum}', 0) on conflict (version) do nothing`,
          ]
        : [],
  };
}

/** Which schema version of ours is in place; an older library must not touch a newer schema. */
export function version(number: number, name: string): Piece {
  return {
    differs: ({ sluiceVersion }) =>
      sluiceVersion >= number ? undefined : `migration ${number} (${name}) of pg-sluice is not finished`,
    mend: (schema) => [
      `insert into ${schema}.sluice_migrations (version, name) values (${number}, '${name}') on conflict (version) do nothing`,
    ],
  };
}

/** pg_type's names for the type words of our CREATE TABLE statements. */
const TYPE_NAMES: Record<string, string> = {
  bigserial: 'int8',
  bigint: 'int8',
  int: 'int4',
  smallint: 'int2',
  boolean: 'bool',
};

function columnsOf(body: string): Record<string, string> {
  const columns: Record<string, string> = {};
  for (const line of body.trim().split(/,\n\s*/)) {
    const match = /^(\w+) (?:s\.)?(\w+)/.exec(line);
    if (match?.[1] && match[2] && match[1] !== 'unique') columns[match[1]] = TYPE_NAMES[match[2]] ?? match[2];
  }
  return columns;
}

function quote(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}
