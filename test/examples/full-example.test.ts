import { createServer, type AddressInfo } from 'node:net';
import type { PoolClient } from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { connect } from '../../src/index.js';
import { type FreshSchema, freshSchema } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { type Program, startProgram } from '../support/program.js';

const ENDING = 'Ending, after what is under way';
const BYE = 'Producer shut down gracefully';
const EMAIL = { type: 'email', to: 'user@example.com', delay: 0 };
const REMINDER = { type: 'reminder', to: 'user@example.com', delay: 3600 };
const SMS = [
  { type: 'sms', to: '+1234567890', delay: 0 },
  { type: 'sms', to: '+0987654321', delay: 0 },
];
const ALL = [EMAIL, REMINDER, ...SMS];

interface Stage extends FreshSchema {
  start: () => Program;
  /** The messages in the order of their ids: the payload, and seconds until due. */
  rows: () => Promise<unknown[]>;
  workers: () => Promise<unknown[]>;
  /** Waits until the program's statement of that name waits for a lock. */
  blocked: (statement: string) => Promise<void>;
  /** Statements in a transaction that stays open: returns what ends it. */
  hold: (...statements: string[]) => Promise<() => Promise<void>>;
  /** Connections of the program. */
  connections: () => Promise<number>;
}

const STOPPED = [{ name: 'notification-service:3000', status: 'stopped', shutDown: true }];

/** A schema of the test's own, installed unless the program is to do that. */
async function stage({ installed = true } = {}): Promise<Stage> {
  const fresh = freshSchema();
  const { schema, pool } = fresh;
  const name = `example ${schema}`;
  const url = new URL(fresh.url);
  url.searchParams.set('application_name', name);
  onTestFinished(() => fresh.drop());
  if (installed) {
    await using sluice = await connect({ dsn: fresh.url, schema });
    await sluice.admin.install();
  }
  const select = async (sql: string, values: unknown[] = []) => (await pool.query<object>(sql, values)).rows;
  return {
    ...fresh,
    start: () =>
      startProgram('examples/full-example/main.ts', { DATABASE_URL: url.href, PGQRS_SCHEMA: schema }),
    rows: () =>
      select(
        `select payload->>'type' as type, payload->>'to' as to, extract(epoch from vt - enqueued_at)::int as delay
         from ${schema}.pgqrs_messages order by id`,
      ),
    workers: () =>
      select(
        `select name, status::text, shutdown_at is not null as "shutDown" from ${schema}.pgqrs_workers order by id`,
      ),
    blocked: async (statement) => {
      await eventually(
        `${statement} waits for a lock`,
        async () => {
          const waiting = await select(
            `select from pg_stat_activity
             where application_name = $1 and wait_event_type = 'Lock' and query like '%' || $2 || '%'`,
            [name, statement],
          );
          return waiting.length > 0;
        },
        30_000,
      );
    },
    hold: async (...statements) => {
      const client = await pool.connect();
      await client.query('begin');
      for (const statement of statements) await client.query(statement);
      return releasing(client);
    },
    connections: async () =>
      (await select('select from pg_stat_activity where application_name = $1', [name])).length,
  };
}

function releasing(client: PoolClient): () => Promise<void> {
  let held = true;
  const release = async () => {
    if (!held) return;
    held = false;
    await client.query('rollback');
    client.release();
  };
  onTestFinished(release);
  return release;
}

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  test(`${signal} when all is sent: every message is there, the worker is stopped, exit code 0`, async () => {
    const s = await stage({ installed: false });
    const program = s.start();
    await program.says('Press Ctrl-C');
    expect(await s.rows()).toEqual(ALL);
    expect(await s.workers()).toEqual([{ ...STOPPED[0], status: 'ready', shutDown: false }]);
    program.send(signal);
    expect(await program.ended()).toEqual({ code: 0, signal: null });
    expect(program.out).toEqual([
      expect.stringMatching(/^Connecting to postgres:\/\/postgres:\*\*\*@/),
      expect.stringMatching(/^Producer worker ID: \d+$/),
      expect.stringMatching(/^Sent immediate message: \d+$/),
      expect.stringMatching(/^Sent delayed message: \d+ \(available in 1 hour\)$/),
      'Sent batch of 2 messages',
      'Press Ctrl-C to end',
      ENDING,
      BYE,
    ]);
    expect(program.err).toEqual([]);
    expect(await s.rows()).toEqual(ALL);
    expect(await s.workers()).toEqual(STOPPED);
  });

test('started once more it opens its queue, and is the same worker', async () => {
  const s = await stage();
  for (const rows of [ALL, [...ALL, ...ALL]]) {
    const program = s.start();
    await program.says('Press Ctrl-C');
    program.send('SIGINT');
    expect(await program.ended()).toEqual({ code: 0, signal: null });
    expect(await s.rows()).toEqual(rows);
    expect(await s.workers()).toEqual(STOPPED);
  }
});

test('Ctrl-C while it connects to a server that does not answer ends it at once', async () => {
  let connected = false;
  const silent = createServer((socket) => {
    connected = true;
    socket.on('error', () => undefined);
  });
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void silent.close());
  const { port } = silent.address() as AddressInfo;
  const program = startProgram('examples/full-example/main.ts', {
    DATABASE_URL: `postgres://user:secret@127.0.0.1:${port}/db`,
  });
  await eventually('it connects', () => connected, 30_000);
  program.send('SIGINT');
  expect(await program.ended(5_000)).toEqual({ code: 130, signal: null });
  expect(program.out).toEqual([`Connecting to postgres://user:***@127.0.0.1:${port}/db`]);
  expect(program.err).toEqual([]);
});

test('Ctrl-C while it installs leaves no table behind', async () => {
  const s = await stage({ installed: false });
  const release = await s.hold(`create schema ${s.schema}`);
  const program = s.start();
  await s.blocked('create schema');
  program.send('SIGINT');
  expect(await program.ended(5_000)).toEqual({ code: 130, signal: null });
  expect(program.err).toEqual([]);
  await release();
  await eventually('the server is done with it', async () => (await s.connections()) === 0);
  const { rows } = await s.pool.query('select from pg_namespace where nspname = $1', [s.schema]);
  expect(rows).toEqual([]);
});

test('Ctrl-C while it registers: the worker is stopped as soon as it is registered', async () => {
  const s = await stage();
  const release = await s.hold(`lock table ${s.schema}.pgqrs_workers in share mode`);
  const program = s.start();
  await s.blocked('register_worker');
  program.send('SIGINT');
  await program.says(ENDING);
  await release();
  expect(await program.ended()).toEqual({ code: 130, signal: null });
  expect(program.out.at(-1)).toBe(BYE);
  expect(program.err).toEqual([]);
  expect(await s.workers()).toEqual(STOPPED);
  expect(await s.rows()).toEqual([]);
});

for (const { during, sent } of [
  { during: 'email', sent: [EMAIL] },
  { during: 'reminder', sent: [EMAIL, REMINDER] },
  { during: 'sms', sent: ALL },
])
  test(`Ctrl-C, three times, while it enqueues the ${during}: what was under way is there, all of it, and nothing more`, async () => {
    const s = await stage();
    await s.pool.query(`
      create function ${s.schema}.wait() returns trigger language plpgsql as $$
      begin
        perform pg_advisory_xact_lock_shared(hashtext('${s.schema}'));
        return new;
      end $$;
      create trigger wait before insert on ${s.schema}.pgqrs_messages for each row
        when (new.payload->>'type' = '${during}') execute function ${s.schema}.wait()`);
    const release = await s.hold(`select pg_advisory_xact_lock(hashtext('${s.schema}'))`);
    const program = s.start();
    await s.blocked('sluice:enqueue');
    for (let n = 0; n < 3; n++) program.send('SIGINT');
    await program.says(ENDING);
    expect(program.running()).toBe(true);
    await release();
    const { code, signal } = await program.ended();
    expect(signal).toBeNull();
    expect(code).toBe(during === 'sms' ? 0 : 130);
    expect(program.out.at(-1)).toBe(BYE);
    expect(program.err).toEqual([]);
    expect(await s.rows()).toEqual(sent);
    expect(await s.workers()).toEqual(STOPPED);
  });

test('a second Ctrl-C, and a SIGTERM, while it shuts down change nothing', async () => {
  const s = await stage();
  const program = s.start();
  await program.says('Press Ctrl-C');
  const release = await s.hold(`select from ${s.schema}.pgqrs_workers for update`);
  program.send('SIGINT');
  await s.blocked('sluice:move_worker');
  program.send('SIGINT');
  program.send('SIGTERM');
  await release();
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  expect(program.out.at(-1)).toBe(BYE);
  expect(program.err).toEqual([]);
  expect(await s.workers()).toEqual(STOPPED);
});

test('a terminal that is closed while it waits ends it in good order', async () => {
  const s = await stage();
  const program = s.start();
  await program.says('Press Ctrl-C');
  program.hangUp();
  program.send('SIGHUP');
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  expect(program.err).toEqual([]);
  expect(await s.workers()).toEqual(STOPPED);
});

test('a reader that goes away while it enqueues ends it in good order', async () => {
  const s = await stage();
  const release = await s.hold(`lock table ${s.schema}.pgqrs_messages in share mode`);
  const program = s.start();
  await s.blocked('sluice:enqueue');
  program.hangUp();
  await release();
  expect(await program.ended()).toEqual({ code: 130, signal: null });
  expect(program.err).toEqual([]);
  const rows = await s.rows();
  expect([1, 2]).toContain(rows.length);
  expect(rows).toEqual(ALL.slice(0, rows.length));
  expect(await s.workers()).toEqual(STOPPED);
});

test('it waits for Ctrl-C however long: also when its pool has closed its idle connections', async () => {
  const s = await stage();
  const program = s.start();
  await program.says('Press Ctrl-C');
  expect(await s.connections()).toBeGreaterThan(0);
  // pg closes those that were idle for ten seconds; heartbeats keep one of theirs.
  await eventually('the pool has closed them', async () => (await s.connections()) <= 1, 30_000);
  expect(program.running()).toBe(true);
  program.send('SIGINT');
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  expect(await s.workers()).toEqual(STOPPED);
});

test('suspended by somebody else it still leaves in good order', async () => {
  const s = await stage();
  const program = s.start();
  const id = (await program.says('Producer worker ID')).replace(/\D/g, '');
  await program.says('Press Ctrl-C');
  await using sluice = await connect({ dsn: s.url, schema: s.schema });
  await sluice.admin.worker(id).suspend();
  program.send('SIGINT');
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  expect(await s.workers()).toEqual(STOPPED);
});

test('an error is one readable line without the password, and exit code 1', async () => {
  const none = startProgram('examples/full-example/main.ts', {
    DATABASE_URL: 'postgres://user:secret@127.0.0.1:1/db',
  });
  expect(await none.ended()).toEqual({ code: 1, signal: null });
  expect(none.err).toEqual([expect.stringMatching(/^ConnectionError: no connection to the database: /)]);
  expect(none.err.join()).not.toContain('secret');

  const s = await stage();
  const first = s.start();
  await first.says('Press Ctrl-C');
  const second = s.start();
  expect(await second.ended()).toEqual({ code: 1, signal: null });
  expect(second.err).toEqual([
    expect.stringMatching(
      /^WorkerAlreadyActiveError: worker "notification-service:3000" is already registered/,
    ),
  ]);
  expect(await s.rows()).toEqual(ALL);
  first.send('SIGINT');
  expect(await first.ended()).toEqual({ code: 0, signal: null });
  expect(await s.workers()).toEqual(STOPPED);
});

test('without a DATABASE_URL it has a server of its own; Ctrl-C ends both', async () => {
  const program = startProgram('examples/full-example/main.ts', {});
  const url = await program.says('Connecting to');
  const port = Number(/:(\d+)\//.exec(url)?.[1]);
  await program.says('Press Ctrl-C');
  program.send('SIGINT');
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  expect(program.out.at(-1)).toBe(BYE);
  expect(program.err).toEqual([]);
  // The port is free again.
  const probe = createServer();
  await new Promise<void>((resolve, reject) => {
    probe.once('error', reject).listen(port, '127.0.0.1', resolve);
  });
  probe.close();
});
