import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { startEmbedded } from '../../src/embedded/index.js';
import { eventually, within } from '../support/eventually.js';

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
  expect(existsSync(dataDir)).toBe(false);
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

test('a data folder that cannot be made is an error', async () => {
  const file = join(await temporaryFolder(), 'file');
  await writeFile(file, '');
  await expect(startEmbedded({ dataDir: join(file, 'data') })).rejects.toThrow(/ENOTDIR|EEXIST/);
});

test('a program that is killed leaves neither a server nor its folder behind', async () => {
  const { parent, pid, dataDir } = await programWithServer();
  parent.kill('SIGKILL');
  await eventually('the postmaster is gone', () => !alive(pid), 20_000);
  await eventually('the data folder is gone', () => !existsSync(dataDir), 20_000);
});

test('Ctrl-C reaches the program, not the server, which the program then stops', async () => {
  const { parent, pid, dataDir } = await programWithServer();
  const exited = once(parent, 'exit');
  process.kill(-(parent.pid ?? 0), 'SIGINT'); // the whole process group, as a terminal does
  const [code] = (await within(20_000, 'the program ends', exited)) as [number];
  expect(code).toBe(0);
  expect(alive(pid)).toBe(false);
  expect(existsSync(dataDir)).toBe(false);
});

async function programWithServer(): Promise<{ parent: ChildProcess; pid: number; dataDir: string }> {
  const parent = fork(fileURLToPath(new URL('./fixture-parent.ts', import.meta.url)), {
    execArgv: ['--import', 'tsx'],
    detached: true,
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  onTestFinished(() => void parent.kill('SIGKILL'));
  const [{ pid, url }] = (await within(30_000, 'the program starts', once(parent, 'message'))) as [
    { pid: number; url: string },
  ];
  return { parent, pid, dataDir: await setting(url, 'data_directory') };
}

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'embedded-test-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
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
