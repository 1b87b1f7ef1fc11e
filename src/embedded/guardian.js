// The parent of the embedded PostgreSQL: a process of its own group, so that Ctrl-C in a terminal does not reach the
// server before the program has finished with it, and one that ends the server when the program is gone, however it
// went. Plain JavaScript, since Node 20 cannot run TypeScript and this file is run from the sources too.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import process from 'node:process';
import { clearTimeout, setTimeout } from 'node:timers';

/**
 * @typedef {object} Order
 * @property {'start'} type
 * @property {{ initdb: string, postgres: string }} binaries
 * @property {{ uid?: number, gid?: number }} user
 * @property {string} dataDir
 * @property {string[]} initdbFlags
 * @property {string[]} postgresFlags
 * @property {string} homeDir working directory of the server
 * @property {string[]} remove folders and files to remove at the end
 */

const FAST_MS = 10_000;
const IMMEDIATE_MS = 5_000;
const KEPT_LINES = 50;

/** @type {import('node:child_process').ChildProcess | undefined} */
let server;
/** @type {string[]} */
let remove = [];
/** @type {string[]} */
const lines = [];
let stopping = false;

process.on('message', (/** @type {Order | { type: 'stop' }} */ message) => {
  if (message.type === 'start') void start(message);
  else void stop();
});
process.on('disconnect', () => void stop());
process.on('SIGTERM', () => void stop());
for (const signal of ['SIGINT', 'SIGHUP']) process.on(signal, () => undefined);

/** @param {Order} order */
async function start(order) {
  remove = order.remove;
  const options = { ...order.user, cwd: order.homeDir };
  if (!existsSync(join(order.dataDir, 'PG_VERSION'))) {
    const code = await run(spawn(order.binaries.initdb, order.initdbFlags, options));
    if (code !== 0) {
      fail();
      return;
    }
  }
  if (stopping) return;
  server = spawn(order.binaries.postgres, order.postgresFlags, options);
  const { pid } = server;
  void run(server, (line) => {
    if (line.includes('database system is ready to accept connections')) tell({ type: 'ready', pid });
  }).then(() => {
    if (!stopping) fail();
  });
}

function fail() {
  tell({ type: 'failed', log: lines });
  void stop();
}

/**
 * Collects what a program says until it ends.
 * @param {import('node:child_process').ChildProcess} child
 * @param {(line: string) => void} [onLine]
 * @returns {Promise<number | null>}
 */
function run(child, onLine = () => undefined) {
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (/** @type {string} */ text) => {
      for (const line of text.split('\n').filter(Boolean)) {
        lines.push(line);
        if (lines.length > KEPT_LINES) lines.shift();
        tell({ type: 'log', line });
        onLine(line);
      }
    });
  }
  return new Promise((resolve) => {
    child.on('error', (error) => {
      lines.push(error.message);
      resolve(-1);
    });
    child.on('close', resolve);
  });
}

/** Fast shutdown, then immediate, then none at all; then nothing is left. */
async function stop() {
  if (stopping) return;
  stopping = true;
  if (server?.pid !== undefined && server.exitCode === null && server.signalCode === null) {
    const gone = new Promise((resolve) => server?.once('exit', resolve));
    server.kill('SIGINT');
    const timers = [
      setTimeout(() => server?.kill('SIGQUIT'), FAST_MS),
      setTimeout(() => server?.kill('SIGKILL'), FAST_MS + IMMEDIATE_MS),
    ];
    await gone;
    timers.forEach(clearTimeout);
  }
  for (const path of remove)
    await rm(path, { recursive: true, force: true, maxRetries: 5 }).catch(() => undefined);
  process.exit(0);
}

/** @param {object} message */
function tell(message) {
  if (process.connected) process.send?.(message, () => undefined);
}
