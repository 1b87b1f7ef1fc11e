import type { Column } from './catalogue.js';

/*
 * Reads the bodies of our own CREATE TABLE statements, so that a table is described once. The language is small:
 * a line is `name type …` or `unique (a, b)` or `primary key (a, b)`, the schema is `s`.
 */

/** pg_type's names for the type words of our CREATE TABLE statements. */
const TYPE_NAMES: Record<string, string> = {
  bigserial: 'int8',
  bigint: 'int8',
  int: 'int4',
  smallint: 'int2',
  boolean: 'bool',
};

export function columnsOf(body: string): Record<string, Column> {
  return Object.fromEntries(
    columnLines(body).map(({ name, type, rest }) => [
      name,
      {
        type: TYPE_NAMES[type] ?? type,
        required: type === 'bigserial' || /\b(not null|primary key|as identity)\b/.test(rest),
        filled: type === 'bigserial' || /\b(default|as identity)\b/.test(rest),
      },
    ]),
  );
}

/** Columns of primary keys and unique constraints. */
export function keysOf(body: string): string[][] {
  const single = columnLines(body).filter(({ rest }) => /\b(primary key|unique)\b/.test(rest));
  const several = lines(body).flatMap((line) => /^(?:unique|primary key) \((.*)\)$/.exec(line)?.[1] ?? []);
  return [...single.map(({ name }) => [name]), ...several.map((list) => list.split(', '))];
}

/** Foreign keys: each column and the table that it refers to. */
export function referencesOf(body: string): [column: string, target: string][] {
  return columnLines(body).flatMap(({ name, rest }) => {
    const target = /\breferences s\.(\w+)/.exec(rest)?.[1];
    return target ? [[name, target] as [string, string]] : [];
  });
}

function columnLines(body: string): { name: string; type: string; rest: string }[] {
  return lines(body).flatMap((line) => {
    const [, name, type, rest] = /^(?!unique |primary )(\w+) (?:s\.)?(\w+)(.*)$/.exec(line) ?? [];
    return name && type ? [{ name, type, rest: rest ?? '' }] : [];
  });
}

function lines(body: string): string[] {
  return body.trim().split(/,\n\s*/);
}
