import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { startEmbedded } from '../../src/embedded/index.js';
import { eventually, within } from '../support/eventually.js';
import { processes } from '../support/processes.js';

test('a server starts, keeps its promises of durability, and leaves nothing behind when it is stopped', async () => {
  const server = await startEmbedded({ settings: { max_connections: '17' } });
  const dataDir = await setting(server.url, 'data_directory');
  expect(await setting(server.url, 'max_connections')).toBe('17');
  expect(await setting(server.url, 'fsync')).toBe('on');
  expect(await setting(server.url, 'synchronous_commit')).toBe('on');
  expect(await setting(server.url, 'listen_addresses')).toBe('127.0.0.1');
  await server.stop();
  await server.stop();
  expect(alive(server.pid)).toBe(false);
  expect(existsSync(dirname(dataDir))).toBe(false);
  await expect(setting(server.url, 'port')).rejects.toThrow('ECONNREFUSED');
});

test('two servers run side by side', async () => {
  await using one = await startEmbedded();
  await using other = await startEmbedded();
  expect(one.port).not.toBe(other.port);
  expect(await setting(one.url, 'port')).toBe(String(one.port));
  expect(await setting(other.url, 'port')).toBe(String(other.port));
});

test('a data folder keeps its data, also over a crash', async () => {
  const dataDir = await temporaryFolder();
  const first = await startEmbedded({ dataDir });
  await query(first.url, 'create table kept (n int)');
  process.kill(first.pid, 'SIGKILL'); // leaves postmaster.pid behind
  await eventually('the postmaster is gone', () => !alive(first.pid));
  await first.stop();
  await using second = await startEmbedded({ dataDir });
  expect(await query(second.url, 'select n from kept')).toEqual([]);
});

test('a data folder that is in use is refused in the words of the server', async () => {
  const dataDir = await temporaryFolder();
  const first = await startEmbedded({ dataDir });
  onTestFinished(() => first.stop());
  await expect(startEmbedded({ dataDir })).rejects.toMatchObject({
    code: 'EMBEDDED_SERVER',
    message: expect.stringContaining('postmaster.pid') as string,
  });
});

test('a wrong setting is refused in the words of the server', async () => {
  await expect(startEmbedded({ settings: { shared_buffers: 'plenty' } })).rejects.toMatchObject({
    code: 'EMBEDDED_SERVER',
    message: expect.stringContaining('invalid value for parameter "shared_buffers"') as string,
  });
});

test('a server whose log is silent starts all the same', async () => {
  await using server = await startEmbedded({ settings: { log_min_messages: 'panic' } });
  expect(await setting(server.url, 'log_min_messages')).toBe('panic');
});

test("variables of the environment that are a client's defaults do not reach the server", async () => {
  process.env.PGCLIENTENCODING = 'no such encoding';
  onTestFinished(() => {
    delete process.env.PGCLIENTENCODING;
  });
  const server = await startEmbedded();
  delete process.env.PGCLIENTENCODING;
  onTestFinished(() => server.stop());
  expect(await setting(server.url, 'server_encoding')).toBe('UTF8');
});

test('a port that is taken is refused with what to do', async () => {
  const squatter = createServer().listen(0, '127.0.0.1');
  onTestFinished(() => void squatter.close());
  await once(squatter, 'listening');
  const { port } = squatter.address() as { port: number };
  await expect(startEmbedded({ port })).rejects.toMatchObject({
    code: 'EMBEDDED_SERVER',
    message: expect.stringContaining('choose another port') as string,
  });
});

test('settings that options decide on are refused', async () => {
  await expect(startEmbedded({ settings: { port: '1' } })).rejects.toMatchObject({ code: 'INVALID_OPTION' });
  await expect(startEmbedded({ port: 0 })).rejects.toMatchObject({ code: 'INVALID_OPTION' });
});

test('a folder with other things in it is refused and left as it is', async () => {
  const dataDir = await temporaryFolder();
  await chmod(dataDir, 0o755);
  await writeFile(join(dataDir, 'holiday.jpg'), '');
  const before = await stat(dataDir);
  await expect(startEmbedded({ dataDir })).rejects.toThrow('holiday.jpg');
  const { mode, uid } = await stat(dataDir);
  expect({ mode, uid }).toEqual({ mode: before.mode, uid: before.uid });
});

test('a data folder that cannot be made is an error', async () => {
  const file = join(await temporaryFolder(), 'file');
  await writeFile(file, '');
  await expect(startEmbedded({ dataDir: join(file, 'data') })).rejects.toThrow(/ENOTDIR|EEXIST/);
});

test('a program that is killed leaves neither a server nor its folder behind', async () => {
  const { parent, pid, home } = await programWithServer();
  parent.kill('SIGKILL');
  await eventually('the postmaster is gone', () => !alive(pid), 20_000);
  await eventually('the folder is gone', () => !existsSync(home), 20_000);
});

test.each(['running bootstrap script', 'performing post-bootstrap', 'starting PostgreSQL'])(
  'a program that is killed at "%s" leaves nothing behind either',
  async (moment) => {
    const tmp = await temporaryFolder();
    await chmod(tmp, 0o711); // for the server's own user, if we are root
    const parent = program(tmp);
    await within(
      30_000,
      moment,
      said(parent, ({ line }) => line?.includes(moment)),
    );
    const [home] = (await readdir(tmp)).filter(isHome);
    expect(home).toBeDefined();
    parent.kill('SIGKILL');
    await eventually('all processes are gone', () => !processesOf(join(tmp, home!)), 20_000);
    await eventually('the folder is gone', async () => !(await readdir(tmp)).some(isHome), 20_000);
  },
);

test('a program need not stop its server to come to its end', async () => {
  const { parent, pid, home } = await programWithServer('leave');
  if (parent.exitCode === null) await within(20_000, 'the program ends', once(parent, 'exit'));
  expect(parent.exitCode).toBe(0);
  await eventually('the postmaster is gone', () => !alive(pid), 20_000);
  await eventually('the folder is gone', () => !existsSync(home), 20_000);
});

test('when its guardian is killed, the program ends the server itself', async () => {
  const server = await startEmbedded();
  const dataDir = await setting(server.url, 'data_directory');
  const guardian = processes().find(({ pid }) => pid === server.pid)?.parent;
  expect(guardian).toBeGreaterThan(1);
  expect(guardian).not.toBe(process.pid);
  process.kill(guardian!, 'SIGKILL');
  await eventually('the postmaster is gone', () => !alive(server.pid), 20_000);
  await within(20_000, 'stop() resolves', server.stop());
  expect(existsSync(dirname(dataDir))).toBe(false);
});

test('Ctrl-C reaches the program, not the server, which the program then stops', async () => {
  const { parent, pid, home } = await programWithServer();
  const exited = once(parent, 'exit');
  process.kill(-parent.pid!, 'SIGINT'); // the whole process group, as a terminal does
  const [code] = (await within(20_000, 'the program ends', exited)) as [number];
  expect(code).toBe(0);
  expect(alive(pid)).toBe(false);
  expect(existsSync(home)).toBe(false);
});

interface Said {
  pid?: number;
  url?: string;
  line?: string;
}

async function programWithServer(
  ...args: string[]
): Promise<{ parent: ChildProcess; pid: number; home: string }> {
  const tmp = await temporaryFolder();
  await chmod(tmp, 0o711);
  const parent = program(tmp, ...args);
  const { pid } = await within(
    30_000,
    'the program starts',
    said(parent, (what) => what.url),
  );
  const [home] = (await readdir(tmp)).filter(isHome);
  return { parent, pid: pid!, home: join(tmp, home ?? '') };
}

function program(tmp: string, ...args: string[]): ChildProcess {
  const parent = fork(fileURLToPath(new URL('./fixture-parent.ts', import.meta.url)), args, {
    execArgv: ['--import', 'tsx'],
    detached: true,
    env: { ...process.env, TMPDIR: tmp },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  onTestFinished(() => void parent.kill('SIGKILL'));
  return parent;
}

function said(parent: ChildProcess, wanted: (what: Said) => unknown): Promise<Said> {
  return new Promise((resolve, reject) => {
    parent.on('message', (what: Said) => {
      if (wanted(what)) resolve(what);
    });
    parent.once('close', (code, signal) => reject(new Error(`the program ended: ${code ?? signal}`)));
  });
}

function isHome(name: string): boolean {
  return /^pg-sluice-[0-9a-f]{16}$/.test(name);
}

/** Whether a program runs that was given the folder. */
function processesOf(folder: string): boolean {
  return processes().some(({ args }) => args.includes(folder));
}

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'embedded-test-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}

async function setting(url: string, name: string): Promise<string> {
  const [row] = await query<{ value: string }>(url, `select current_setting('${name}') as value`);
  return row!.value;
}

async function query<Row extends pg.QueryResultRow>(url: string, text: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<Row>(text)).rows;
  } finally {
    await client.end();
  }
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
