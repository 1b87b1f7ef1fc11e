import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { onTestFinished } from 'vitest';
import { reachableTmp, type ServerUser } from '../../src/embedded/binaries.js';
import { eventually, within } from '../support/eventually.js';

/** Set by run.sh, which looks for the program; the plain test run goes without. */
const { PGBOUNCER = '', PGBOUNCER_SKIP } = process.env;

/** Why there is no PgBouncer to test through; undefined when there is one. */
export const missing =
  PGBOUNCER_SKIP ?? (existsSync(PGBOUNCER) ? undefined : 'they run by `npm run test:pooler`');

if (missing !== undefined) console.warn(`tests through PgBouncer skipped: ${missing}`);

/** Server connections that all clients share: fewer than any of the tests has clients. */
export const POOL_SIZE = 4;

/** PgBouncer in transaction mode in front of one database. */
export interface Pooler {
  /** The server's URL, through the pooler. */
  url: string;
  /** Server processes behind it, by their ids. */
  backends: () => Promise<number[]>;
  /** Starts it again on its port. */
  start: () => Promise<void>;
  /** Ends it at once, as a crash would; resolves when it is gone. */
  end: () => Promise<void>;
}

/** Starts a pooler in front of the server at `url`; it ends when the test is over. */
export async function startPooler(url: string): Promise<Pooler> {
  const user = unprivileged();
  const folder = await mkdtemp(join(reachableTmp(user), 'pg-sluice-pgbouncer-'));
  const port = await freePort();
  const settings = await configure(folder, new URL(url), port);
  await handOver(folder, user);
  let child: ChildProcess | undefined;
  let log = '';

  const through = new URL(url);
  through.hostname = '127.0.0.1';
  through.port = String(port);
  const console = new URL(through);
  console.pathname = '/pgbouncer';

  const start = async () => {
    // Started by root it becomes that user, so that even a program which the user could not reach can be run.
    const running = spawn(PGBOUNCER, [...(user.name ? ['-u', user.name] : []), settings], {
      cwd: '/',
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    child = running;
    running.stderr.on('data', (text: Buffer) => (log += text.toString()));
    running.once('error', ({ message }) => (log += message));
    await eventually('PgBouncer to let clients in', async () => {
      if (running.pid === undefined || running.exitCode !== null) throw new Error(`PgBouncer ended: ${log}`);
      return ask(through, 'select 1').catch(() => undefined);
    });
  };
  const end = async () => {
    const running = child;
    child = undefined;
    if (running?.pid === undefined || running.exitCode !== null || running.signalCode !== null) return;
    const gone = once(running, 'exit');
    running.kill('SIGKILL');
    await within(5_000, 'the end of PgBouncer', gone);
  };
  onTestFinished(async () => {
    await end();
    await rm(folder, { recursive: true });
  });
  await start();
  return {
    url: through.href,
    backends: async () =>
      (await ask<{ remote_pid: number }>(console, 'show servers')).map(({ remote_pid }) => remote_pid),
    start,
    end,
  };
}

/** What a user has to set, and no more: none of the driver's or our startup parameters has to be ignored. */
async function configure(folder: string, server: URL, port: number): Promise<string> {
  const [name, password] = [server.username, server.password].map(decodeURIComponent) as [string, string];
  const database = decodeURIComponent(server.pathname.slice(1));
  const users = join(folder, 'users.txt');
  await writeFile(users, `"${name}" "${password}"\n`);
  const settings = join(folder, 'pgbouncer.ini');
  await writeFile(
    settings,
    [
      '[databases]',
      `${database} = host=${server.hostname} port=${server.port || 5432}`,
      '[pgbouncer]',
      'listen_addr = 127.0.0.1',
      `listen_port = ${port}`,
      'unix_socket_dir =',
      `auth_type = ${password === '' ? 'trust' : 'scram-sha-256'}`,
      `auth_file = ${users}`,
      `admin_users = ${name}`,
      'pool_mode = transaction',
      `default_pool_size = ${POOL_SIZE}`,
      // From 1.21 on it can follow prepared statements, and from 1.24 on it does: here the harder case is tested.
      ...(knowsPrepared() ? ['max_prepared_statements = 0'] : []),
      '',
    ].join('\n'),
  );
  return settings;
}

function knowsPrepared(): boolean {
  const { stdout } = spawnSync(PGBOUNCER, ['--version'], { encoding: 'utf8' });
  const [, major, minor] = /(\d+)\.(\d+)/.exec(stdout) ?? [];
  return Number(major) > 1 || Number(minor) >= 21;
}

/** PgBouncer refuses to run as root. */
function unprivileged(): ServerUser & { name?: string } {
  if (process.getuid?.() !== 0) return {};
  const name = 'nobody';
  const [uid, gid] = ['-u', '-g'].map((flag) =>
    Number(spawnSync('id', [flag, name], { encoding: 'utf8' }).stdout),
  ) as [number, number];
  return { name, uid, gid };
}

async function handOver(folder: string, { uid, gid }: ServerUser): Promise<void> {
  await chmod(folder, 0o700);
  if (uid !== undefined && gid !== undefined) {
    for (const path of ['users.txt', 'pgbouncer.ini', '.']) await chown(join(folder, path), uid, gid);
  }
}

/** One statement on a connection of its own. */
async function ask<Row extends pg.QueryResultRow>(url: URL, text: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url.href, connectionTimeoutMillis: 5_000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return (await client.query<Row>(text)).rows;
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, 'close');
  return port;
}
