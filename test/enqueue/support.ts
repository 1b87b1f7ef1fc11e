import pg from 'pg';
import { onTestFinished } from 'vitest';
import { type ConfigOptions, connect, type Id, type Sluice } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import type { Scenario } from '../support/scenario.js';

export interface Stored {
  id: Id;
  n: number;
  producer: Id;
  /** Microseconds since 1970. */
  vt: string;
}

/** What the table holds, by id. */
export async function stored({ pool, schema }: Scenario): Promise<Stored[]> {
  const { rows } = await pool.query<Stored>(
    `select id::text, (payload->>'n')::int as n, producer_worker_id::text as producer,
       (extract(epoch from vt) * 1000000)::int8::text as vt
     from ${schema}.pgqrs_messages m order by m.id`,
  );
  return rows;
}

/** The field `n` of all payloads, in the order of their ids. */
export async function order(s: Scenario): Promise<number[]> {
  return (await stored(s)).map(({ n }) => n);
}

/** A pool of the test's own that keeps the names of our statements, and can do something before one is sent. */
export interface Watched {
  sluice: Sluice;
  pool: pg.Pool;
  /** How many statements of that name were sent since the last `forget()`. */
  count: (name: string) => number;
  forget: () => void;
  /** Waits for `work` once, before the next statement whose text or name matches is sent. */
  before: (pattern: RegExp, work: (client: pg.ClientBase) => Promise<unknown>) => void;
}

type Settings = Omit<ConfigOptions, 'dsn' | 'schema'> & { max?: number };

export async function watched(s: Scenario, { max = 4, ...settings }: Settings = {}): Promise<Watched> {
  const pool = new pg.Pool({ connectionString: s.url, max });
  pool.on('error', () => undefined);
  const names: string[] = [];
  const hooks: { pattern: RegExp; work: (client: pg.ClientBase) => Promise<unknown> }[] = [];
  pool.on('connect', (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
    const plain = { query } as unknown as pg.ClientBase;
    client.query = ((...args: [string | pg.QueryConfig, ...unknown[]]) => {
      const text = typeof args[0] === 'string' ? args[0] : args[0].text;
      const name = /sluice:(\w+)/.exec(text)?.[1];
      if (name) names.push(name);
      const at = hooks.findIndex(({ pattern }) => pattern.test(text));
      if (at < 0) return query(...args);
      const [hook] = hooks.splice(at, 1);
      return hook!.work(plain).then(() => query(...args));
    }) as typeof client.query;
  });
  const sluice = await connect({ pool, schema: s.schema, ...settings });
  onTestFinished(async () => {
    await within(20_000, 'closing', sluice.close()).catch(() => undefined);
    await pool.end();
  });
  return {
    sluice,
    pool,
    count: (name) => names.filter((found) => found === name).length,
    forget: () => void names.splice(0),
    before: (pattern, work) => void hooks.push({ pattern, work }),
  };
}

/** Keeps everybody from writing messages until it is let go. */
export async function lockMessages({ url, schema }: Scenario): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  let held = true;
  const letGo = async () => {
    if (!held) return;
    held = false;
    await client.end();
  };
  onTestFinished(letGo);
  await client.query(`begin; lock table ${schema}.pgqrs_messages in exclusive mode`);
  return letGo;
}

/** Waits until so many statements of our producers wait for a lock. @returns their backends */
export async function blocked({ pool, schema }: Scenario, count = 1): Promise<number[]> {
  return eventually(`${count} blocked statements`, async () => {
    const { rows } = await pool.query<{ pid: number }>(
      `select pid from pg_stat_activity
       where wait_event_type = 'Lock' and query like '/* sluice:enqueue */%' || $1 || '%'`,
      [schema],
    );
    return rows.length >= count ? rows.map(({ pid }) => pid) : undefined;
  });
}

/** The error that it rejects with, under a deadline; fails where it resolves. */
export async function failureOf(
  promise: Promise<unknown>,
  withinMs = 10_000,
): Promise<Error & { code: string }> {
  const failure = await within(
    withinMs,
    'the failure',
    promise.then(
      () => undefined,
      (error: unknown) => error,
    ),
  );
  if (!(failure instanceof Error)) throw new Error(`no error came, but ${String(failure)}`);
  return failure as Error & { code: string };
}

/** Has the server refuse rows that break `check`, an SQL condition over `payload`. */
export async function constrain({ pool, schema }: Scenario, check: string): Promise<void> {
  await pool.query(`alter table ${schema}.pgqrs_messages add constraint of_the_test check (${check})`);
}

/**
 * A trigger before each row; `body` is PL/pgSQL that sees it as `new`, and `{s}` as the schema. `nth` counts its rows,
 * those that were rolled back as well.
 */
export async function onInsert(
  { pool, schema }: Scenario,
  body: string,
  kind = 'trigger of_the_test before insert',
): Promise<void> {
  await pool.query(`
    create sequence ${schema}.rows_seen;
    create function ${schema}.of_the_test() returns trigger language plpgsql as $$
    declare nth bigint := nextval('${schema}.rows_seen');
    begin
      ${body.replaceAll('{s}', schema)}
      return new;
    end $$;
    create ${kind} on ${schema}.pgqrs_messages ${kind.startsWith('constraint') ? 'deferrable initially deferred' : ''}
      for each row execute function ${schema}.of_the_test()`);
}
