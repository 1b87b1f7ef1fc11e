import { readFileSync } from 'node:fs';
import { onTestFinished } from 'vitest';
import { connect, type Sluice } from '../../src/index.js';
import type { Scenario } from './scenario.js';

/** What of docs/privileges.md a role gets. */
export type Block =
  | `producer${'' | '-keys' | '-backlog' | '-changes' | '-replay'}`
  | `consumer${'' | '-delete' | '-retention'}`
  | 'admin'
  | 'installer'
  | 'install-check';

/** One privilege on one object, and with it on one column where it is meant column by column. */
export interface Privilege {
  kind: string;
  column: string | undefined;
  /** As GRANT wants it, with the schema left open. */
  on: string;
}

const DOCUMENT = readFileSync(new URL('../../docs/privileges.md', import.meta.url), 'utf8');

/** The privileges of a block of the document, in its order. */
export function privileges(block: Block): Privilege[] {
  const [, sql] = new RegExp(`^\`\`\`sql ${block}\n([^]*?)\`\`\``, 'm').exec(DOCUMENT) ?? [];
  if (sql === undefined) throw new Error(`docs/privileges.md has no block "${block}"`);
  const statements = sql.replaceAll(/--.*$/gm, '').split(';');
  return statements.map((text) => text.replaceAll(/\s+/g, ' ').trim()).flatMap((text) => parsed(text));
}

function parsed(statement: string): Privilege[] {
  if (statement === '') return [];
  const [, all, on] = /^grant (.+) on (.+) to :role$/.exec(statement) ?? [];
  if (all === undefined || on === undefined) throw new Error(`not a grant of one object: ${statement}`);
  return [...all.matchAll(/(\w+)(?: \(([^)]+)\))?(?:, |$)/g)].flatMap(([, kind = '', columns]) =>
    (columns?.split(', ') ?? [undefined]).map((column) => ({ kind, column, on })),
  );
}

/** As it stands in a test's table: `update (vt) pgqrs_messages`. */
export function nameOf({ kind, column, on }: Privilege): string {
  const object = on.replace('sequence ', '').replace(':schema.', '').replace(':schema', '');
  return `${kind}${column === undefined ? '' : ` (${column})`} ${object}`.replaceAll('  ', ' ').trim();
}

export interface Role {
  name: string;
  url: string;
  /** Has these privileges from now on, and no others. */
  may: (privileges: readonly Privilege[]) => Promise<void>;
}

/** A login of its own, which may nothing yet; dropped when the test is over. */
export async function createRole(
  { pool, schema, url }: Pick<Scenario, 'pool' | 'schema' | 'url'>,
  suffix = 'role',
): Promise<Role> {
  const name = `${schema}_${suffix}`;
  await pool.query(`create role ${name} login password 'role-pw'`);
  onTestFinished(async () => {
    await pool.query(`drop owned by ${name} cascade; drop role ${name}`);
  });
  const itsUrl = new URL(url);
  itsUrl.username = name;
  itsUrl.password = 'role-pw';
  return {
    name,
    url: itsUrl.href,
    may: async (privileges) => {
      const grants = privileges.map(
        ({ kind, column, on }) =>
          `grant ${kind} ${column === undefined ? '' : `(${column})`} on ${on.replace(':schema', schema)} to ${name}`,
      );
      await pool.query([`drop owned by ${name}`, ...grants].join(';'));
    },
  };
}

/** A connection as a role that has the privileges of these blocks, and no others. */
export async function asRole(
  test: Scenario,
  ...blocks: readonly Block[]
): Promise<{ role: Role; sluice: Sluice }> {
  const role = await createRole(test);
  await role.may(blocks.flatMap(privileges));
  return { role, sluice: await connectAs(test, role) };
}

/** Another connection as that role, closed when the test is over. */
export async function connectAs({ schema }: Pick<Scenario, 'schema'>, { url }: Role): Promise<Sluice> {
  const sluice = await connect({ dsn: url, schema });
  onTestFinished(() => sluice.close().catch(() => undefined));
  return sluice;
}
