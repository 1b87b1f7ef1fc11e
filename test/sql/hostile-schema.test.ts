import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { expect, onTestFinished, test, vi } from 'vitest';
import { connect } from '../../src/index.js';
import { beginBatch } from '../../src/sql/batches.js';
import { SELECT_HOST_STATE, SELECT_HOST_STATE_ONLY } from '../../src/sql/host-state.js';
import { freshSchema } from '../support/database.js';

/*
 * Whoever may create in a schema of the search_path (before 15 that was everybody, in `public`) can define functions and
 * operators. PostgreSQL finds its own first, but prefers those that fit the types exactly: `count(bigint)` to its own
 * `count("any")`. Here is a schema with all of them, and then each statement is looked at: what does it call?
 */

type Build = (schema: string) => string;
const builds = vi.hoisted(() => [] as [name: string, build: Build][]);
vi.mock('../../src/sql/statement.js', async (load) => {
  const real = await load<typeof import('../../src/sql/statement.js')>();
  const statement: typeof real.statement = (name, build) => {
    const built = real.statement(name, build);
    builds.push([name, built]);
    return built;
  };
  return { ...real, statement };
});

const SQL = fileURLToPath(new URL('../../src/sql/', import.meta.url));
const OPERATORS = [
  '=',
  '<>',
  '<',
  '<=',
  '>',
  '>=',
  '+',
  '-',
  '*',
  '/',
  '||',
  '~',
  '->',
  '->>',
  '#>>',
  '@>',
  '&&',
];
const TYPES = [
  ...[
    'smallint',
    'integer',
    'bigint',
    'double precision',
    'numeric',
    'boolean',
    'text',
    'character varying',
    'name',
    '"char"',
  ],
  ...[
    'timestamp with time zone',
    'timestamp without time zone',
    'date',
    'interval',
    'json',
    'jsonb',
    'bytea',
    'tid',
    'oid',
    'regclass',
    'xid',
  ],
  ...['text[]', 'bigint[]', 'integer[]', 'double precision[]', 'tid[]', 'jsonb[]', 'name[]'],
];
/** Functions that take anything of any number: nothing but their schema's name makes sure that they are meant. */
const VARIADIC_ANY = `select distinct proname from pg_proc where pronamespace = 'pg_catalog'::regnamespace
  and provariadic = '"any"'::regtype`;
/** What PostgreSQL's functions of these names take: for each argument the types that fit it. */
const SIGNATURES = `
  select proname as name, (
    select jsonb_agg(case when t.typtype = 'p' then to_jsonb($2::text[]) else to_jsonb(format_type(t.oid, null) || array(
      select format_type(c.castsource, null) from pg_cast c where c.casttarget = t.oid and c.castcontext = 'i'
        and format_type(c.castsource, null) = any ($2))) end order by n)
    from unnest(p.proargtypes) with ordinality a (type, n) join pg_type t on t.oid = a.type) as arguments
  from pg_proc p where pronamespace = 'pg_catalog'::regnamespace and proname = any ($1) and pronargs between 1 and 5
    and provariadic <> '"any"'::regtype and 'internal'::regtype <> all (proargtypes)`;

/** All statements of ours, and what installs them. */
async function statements(s: string): Promise<string[]> {
  for (const file of readdirSync(SQL, { recursive: true, encoding: 'utf8' })) {
    if (file.endsWith('.ts')) await import(`${SQL}${file}`);
  }
  const scripts: string[] = [];
  const session = { schema: s, begin: (script: string) => void scripts.push(script.split(';').at(-1)!) };
  await beginBatch(session as never, '1', { id: '1', incarnation: 'now' }, undefined);
  const others = [SELECT_HOST_STATE, SELECT_HOST_STATE_ONLY, ...scripts];
  return [...new Set([...builds.map(([, build]) => build(s)), ...others])];
}

/** What a statement calls without saying where it is. */
function calledBy(text: string): string[] {
  return [...text.matchAll(/(?<![.\w"])([a-z_][a-z0-9_]*)\s*\(/g)].map(([, name]) => name!);
}

async function createHostile(client: pg.Client, hostile: string, names: string[], types: string[]) {
  await client.query(`create schema ${hostile}`);
  for (const left of types) {
    const script = types.flatMap((right) => [
      `create function ${hostile}.operate(${left}, ${right}) returns boolean language sql as 'select true'`,
      ...OPERATORS.map(
        (operator) =>
          `create operator ${hostile}.${operator} (function = ${hostile}.operate, leftarg = ${left}, rightarg = ${right})`,
      ),
    ]);
    await client.query(script.join(';'));
  }
  const { rows } = await client.query<{ name: string; arguments: string[][] }>(SIGNATURES, [names, types]);
  const signatures = new Set(
    rows.flatMap(({ name, arguments: each }) =>
      each
        .reduce<string[][]>(
          (all, fitting) => all.flatMap((one) => fitting.map((type) => [...one, type])),
          [[]],
        )
        .map((list) => `${hostile}.${name}(${list.join(', ')})`),
    ),
  );
  const script = [...signatures].map(
    (one) => `create function ${one} returns boolean language sql as 'select true'`,
  );
  while (script.length > 0) await client.query(script.splice(0, 500).join(';'));
  return signatures.size;
}

/** Piece by piece: all at once would need more locks than a server has room for. */
async function dropHostile(client: pg.Client, hostile: string): Promise<void> {
  await client.query('reset search_path');
  const { rows } = await client.query<{ drop: string }>(
    `select format('drop function %s cascade', oid::regprocedure) as drop
     from pg_proc where pronamespace = to_regnamespace($1)`,
    [hostile],
  );
  while (rows.length > 0)
    await client.query(
      rows
        .splice(0, 100)
        .map(({ drop }) => drop)
        .join(';'),
    );
  await client.query(`drop schema if exists ${hostile} cascade`);
}

async function parametersOf(client: pg.Client, text: string): Promise<string[]> {
  await client.query(`prepare looked_at as ${text}`);
  const { rows } = await client.query<{ types: string[] }>(
    `select parameter_types::text[] as types from pg_prepared_statements where name = 'looked_at'`,
  );
  await client.query('deallocate looked_at');
  return rows[0]!.types;
}

/** @returns what of the hostile schema it calls, or why it is not understood any more */
async function strangersIn(
  client: pg.Client,
  hostile: string,
  text: string,
  types: string[],
): Promise<string[]> {
  try {
    expect(await parametersOf(client, text)).toEqual(types);
    await client.query(
      `create function ${hostile}.looked_at(${types.join(', ')}) returns void begin atomic ${text}; end`,
    );
  } catch (error) {
    return [(error as Error).message];
  }
  const { rows } = await client.query<{ called: string }>(
    `select pg_describe_object(refclassid, refobjid, 0) as called from pg_depend
     where classid = 'pg_proc'::regclass and objid = (select oid from pg_proc where proname = 'looked_at')
       and (refobjid in (select oid from pg_proc where pronamespace = $1::regnamespace)
         or refobjid in (select oid from pg_operator where oprnamespace = $1::regnamespace))`,
    [hostile],
  );
  await client.query(`drop function ${hostile}.looked_at`);
  return rows.map(({ called }) => called);
}

test(
  'no statement, routine or table calls a function or an operator that somebody has put into the search_path',
  { timeout: 180_000 },
  async () => {
    const fresh = freshSchema();
    const hostile = `${fresh.schema}_hostile`;
    const client = new pg.Client({ connectionString: fresh.url });
    await client.connect();
    onTestFinished(async () => {
      await dropHostile(client, hostile);
      await fresh.drop();
      await client.end();
    });
    await using sluice = await connect({ dsn: fresh.url, schema: fresh.schema });
    await sluice.admin.install();
    const texts = (await statements(`"${fresh.schema}"`)).filter((text) => !/\*\/\s*copy /.test(text));
    expect(texts.length).toBeGreaterThan(80);
    const { rows: any } = await client.query<{ proname: string }>(VARIADIC_ANY);
    const names = [...new Set(texts.flatMap(calledBy))];

    const types = [...TYPES, `${fresh.schema}.worker_status`];
    await createHostile(client, hostile, names, types);
    const wrong: Record<string, string[]> = {};
    for (const text of texts) {
      const parameters = await parametersOf(client, text);
      await client.query(`set search_path = ${hostile}`);
      const strangers = await strangersIn(client, hostile, text, parameters);
      await client.query('reset search_path');
      if (strangers.length > 0) wrong[/sluice:(\w+)/.exec(text)?.[1] ?? text] = strangers;
    }

    // What is installed by a session that looks there has none of it either, and its routines look elsewhere.
    const installed = `${fresh.schema}_two`;
    const url = new URL(fresh.url);
    url.searchParams.set('options', `-c search_path=${hostile}`);
    {
      await using installer = await connect({ dsn: url.href, schema: installed });
      await installer.admin.install();
    }
    const { rows: foreign } = await client.query(
      `select pg_describe_object(classid, objid, objsubid) as object, pg_describe_object(refclassid, refobjid, 0) as on
       from pg_depend where deptype = 'n' and (
         refobjid in (select oid from pg_proc where pronamespace = $1::regnamespace)
           and objid not in (select oid from pg_operator where oprnamespace = $1::regnamespace)
         or refobjid in (select oid from pg_operator where oprnamespace = $1::regnamespace))`,
      [hostile],
    );
    const { rows: routines } = await client.query<{ name: string; path: string | null }>(
      `select proname as name, (select s from unnest(proconfig) s where s like 'search_path=%') as path
       from pg_proc where pronamespace = $1::regnamespace`,
      [installed],
    );
    await client.query(`drop schema ${installed} cascade`);
    expect(foreign).toEqual([]);
    expect(routines.length).toBeGreaterThan(15);
    expect(routines.filter(({ path }) => path !== 'search_path=pg_catalog, pg_temp')).toEqual([]);
    wrong['of any number'] = names.filter((name) => any.some(({ proname }) => proname === name));
    expect(wrong).toEqual({ 'of any number': [] });
  },
);
