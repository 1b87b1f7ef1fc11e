import { fork } from 'node:child_process';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sleep } from '../backoff.js';
import { TimeoutError } from '../errors/index.js';
import type { Order, Said, Told } from './guardian.js';
import { startFailure } from './start-failure.js';

export interface Guarded {
  /** Process id of the postmaster. */
  pid: number;
  stop: () => Promise<void>;
}

const SWEEP_MS = 10_000;

/** Starts a server under a guardian process; resolves when it lets clients in. */
export async function guard(order: Order, onLog?: (line: string) => void): Promise<Guarded> {
  // NODE_OPTIONS are for the program: a loader or --inspect-brk is no business of the guardian.
  const env = { ...process.env, NODE_OPTIONS: '' };
  const guardian = fork(fileURLToPath(new URL('./guardian.js', import.meta.url)), {
    cwd: '/',
    detached: true,
    env,
    execArgv: [],
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  });
  let pid: number | undefined;
  let log: readonly string[] = [];
  const closed = new Promise<boolean>((resolve) => {
    // "close" comes after the last message, "exit" may come before it.
    guardian.once('close', (code) => resolve(code === 0));
    guardian.on('error', ({ message }) => {
      log = log.length > 0 ? log : [message];
      if (guardian.pid === undefined) resolve(true);
    });
  });
  const ended = closed.then(async (clean) => (clean ? undefined : sweep(order, pid)));
  ended.catch(() => undefined); // for stop() to report

  const ready = new Promise<number>((resolve, reject) => {
    guardian.on('message', (said: Said) => {
      if (said.type === 'log') onLog?.(said.line);
      else if (said.type === 'failed') log = said.log;
      else if (said.type === 'spawned') pid = said.pid;
      else resolve(said.pid);
    });
    ended.then(() => reject(startFailure(log)), reject);
  });
  const tell = (told: Told) => {
    if (guardian.connected) guardian.send(told, () => undefined); // a guardian that is gone has done its work
  };
  tell({ type: 'start', order });
  const postmaster = await ready;
  // The program may end without stopping the server: the guardian notices and does it.
  guardian.unref();
  guardian.channel?.unref();

  return {
    pid: postmaster,
    stop: () => {
      guardian.ref();
      guardian.channel?.ref();
      tell({ type: 'stop' });
      return ended;
    },
  };
}

/** Does what a guardian that was killed could not do any more. */
async function sweep({ home, temporary }: Order, pid: number | undefined): Promise<void> {
  const deadline = performance.now() + SWEEP_MS;
  const lockFile = join(home, 'data', 'postmaster.pid');
  const holdsLock = async () => (await readFile(lockFile, 'utf8').catch(() => '')).startsWith(`${pid}\n`);
  if (pid !== undefined && (await holdsLock()) && signalled(pid, 'SIGINT')) {
    while (signalled(pid, 0)) {
      if (performance.now() > deadline) throw new TimeoutError('stopping the embedded PostgreSQL', SWEEP_MS);
      await sleep(20);
    }
  }
  if (temporary) await rm(home, { recursive: true, force: true, maxRetries: 5 });
}

/** Whether there was a process to take the signal. */
function signalled(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}
