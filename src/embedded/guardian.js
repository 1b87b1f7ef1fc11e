// The parent of the embedded PostgreSQL: a process of its own group, so that Ctrl-C in a terminal does not reach the
// server before the program has finished with it, and one that ends the server when the program is gone, however it
// went. It makes the temporary folder itself, so that there is none without somebody to remove it. Plain JavaScript,
// since Node 20 cannot run TypeScript and this file is run from the sources too.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { lchown, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { clearTimeout, setTimeout } from 'node:timers';
import { setTimeout as delay } from 'node:timers/promises';

/**
 * @typedef {object} Order
 * @property {{ initdb: string, postgres: string }} binaries
 * @property {{ uid?: number, gid?: number }} user
 * @property {string} home holds the data, in `data`, and the password
 * @property {boolean} temporary whether the guardian makes the home folder, and removes it at the end
 * @property {string} password of the superuser
 * @property {string[]} flags of the server
 * @property {boolean} logged whether the parent wants every line of the log
 */
/** @typedef {{ type: 'start', order: Order } | { type: 'stop' }} Told what the guardian is told */
/**
 * @typedef {{ type: 'log', line: string } | { type: 'spawned' | 'ready', pid: number }
 *   | { type: 'failed', log: string[] }} Said what it says; `spawned` and `ready` are about the postmaster
 */

const FAST_MS = 10_000;
const IMMEDIATE_MS = 5_000;
const LAST_WORDS_MS = 2_000;
const POLL_MS = 15;
const KEPT_LINES = 50;

/** @type {Order | undefined} */
let order;
/** initdb, then postgres: what was started last. @type {import('node:child_process').ChildProcess | undefined} */
let program;
/** Settles when nothing runs any more. @type {Promise<void>} */
let launched = Promise.resolve();
let stopping = false;
/** @type {string[]} */
const log = [];

process.on('message', (/** @type {Told} */ message) => {
  if (message.type === 'start') start(message.order);
  else void stop();
});
process.on('disconnect', () => void stop());
process.on('SIGTERM', () => void stop());
for (const signal of ['SIGINT', 'SIGHUP']) process.on(signal, () => undefined);

/** @param {Order} given */
function start(given) {
  order = given;
  launched = launch(order).catch((/** @type {unknown} */ error) => keep(String(error)));
  void launched.then(async () => {
    if (stopping) return;
    await say({ type: 'failed', log });
    await stop();
  });
}

/**
 * Runs the server to its end, or to where it cannot go on. Looks at `stopping` right before each program.
 * @param {Order} order
 */
async function launch(order) {
  const { home, temporary, user, binaries } = order;
  if (temporary) {
    await mkdir(home, { mode: 0o700 }); // fails if it is there: somebody else's
    await give(home, user);
  }
  const data = join(home, 'data');
  if (!existsSync(data)) await initialise(data, order);
  if (stopping || !existsSync(data)) return;

  const flags = ['-D', data, ...order.flags];
  const server = spawn(binaries.postgres, flags, { ...user, cwd: home, env: serverEnv() });
  const ended = watch(server);
  if (server.pid !== undefined) {
    void say({ type: 'spawned', pid: server.pid });
    if (await isReady(server, join(data, 'postmaster.pid'))) void say({ type: 'ready', pid: server.pid });
  }
  await ended;
}

/**
 * Makes the data folder; it gets its name when it is complete, so that a start that was cut off blocks no later one.
 * @param {string} data
 * @param {Order} order
 */
async function initialise(data, { home, temporary, user, binaries, password }) {
  const draft = `${data}.new`;
  const passwordFile = join(home, 'password');
  await rm(draft, { recursive: true, force: true });
  await rm(passwordFile, { force: true });
  await writeFile(passwordFile, password, { mode: 0o600, flag: 'wx' });
  await give(passwordFile, user);
  if (stopping) return;
  const flags = [
    `--pgdata=${draft}`,
    '--username=postgres',
    '--auth=scram-sha-256',
    `--pwfile=${passwordFile}`,
  ];
  flags.push('--encoding=UTF8', '--locale=C', ...(temporary ? ['--no-sync'] : []));
  const initdb = spawn(binaries.initdb, flags, { ...user, cwd: home, env: serverEnv() });
  await watch(initdb);
  if (initdb.exitCode === 0) await rename(draft, data);
}

/**
 * Whether the server lets clients in, by the eighth line of its lock file, as pg_ctl has it: what the log says depends
 * on settings. False when it ended first.
 * @param {import('node:child_process').ChildProcess} server
 * @param {string} lockFile
 */
async function isReady(server, lockFile) {
  while (server.exitCode === null && server.signalCode === null) {
    const lines = (await readFile(lockFile, 'utf8').catch(() => '')).split('\n');
    if (lines[0] === String(server.pid) && lines[7]?.trim() === 'ready') return true;
    await delay(POLL_MS);
  }
  return false;
}

/**
 * Collects what a program says until it and all that it started are at their ends.
 * @param {import('node:child_process').ChildProcess} started
 */
async function watch(started) {
  program = started;
  for (const input of [started.stdout, started.stderr])
    if (input) createInterface({ input }).on('line', keep);
  const exit = new Promise((resolve) => {
    started.once('exit', resolve);
    started.once('error', (error) => {
      keep(error.message);
      resolve(undefined);
    });
  });
  const close = new Promise((resolve) => started.once('close', resolve));
  // A program of archive_command, say, may keep the pipe open for ever.
  await Promise.race([close, exit.then(() => delay(LAST_WORDS_MS))]);
}

/** @param {string} line */
function keep(line) {
  log.push(line);
  if (log.length > KEPT_LINES) log.shift();
  if (order?.logged) void say({ type: 'log', line });
}

/** Fast shutdown, then immediate, then none at all; then nothing is left. */
async function stop() {
  if (stopping) return;
  stopping = true;
  program?.kill('SIGINT'); // initdb heeds it as well
  const timers = [
    setTimeout(() => program?.kill('SIGQUIT'), FAST_MS),
    setTimeout(() => program?.kill('SIGKILL'), FAST_MS + IMMEDIATE_MS),
  ];
  await launched;
  timers.forEach(clearTimeout);
  try {
    if (order?.temporary) await rm(order.home, { recursive: true, force: true, maxRetries: 5 });
  } catch {
    process.exit(1); // the parent, if it is still there, tries itself
  }
  process.exit(0);
}

/** The caller's, less what would be defaults of the server (PGTZ, PGCLIENTENCODING, ...) or change its language. */
function serverEnv() {
  const kept = Object.entries(process.env).filter(([name]) => !/^(?:PG|LC_)/.test(name));
  return { ...Object.fromEntries(kept), LC_ALL: 'C' };
}

/**
 * @param {string} path
 * @param {Order['user']} user
 */
async function give(path, { uid, gid }) {
  if (uid !== undefined && gid !== undefined) await lchown(path, uid, gid);
}

/**
 * @param {Said} message
 * @returns {Promise<void>} when it is on its way
 */
function say(message) {
  return new Promise((resolve) => {
    if (process.connected && process.send) process.send(message, () => resolve());
    else resolve();
  });
}
