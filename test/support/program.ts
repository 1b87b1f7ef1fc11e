import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { eventually, within } from './eventually.js';

/** How a program has ended: by itself with a code, or by a signal that it did not catch. */
export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** A TypeScript program that runs as its user would run it. */
export interface Program {
  /** Lines on stdout and stderr so far. */
  out: readonly string[];
  err: readonly string[];
  /** The first line on stdout that holds `text`, as soon as it is there; fails when the program ends without. */
  says: (text: string) => Promise<string>;
  send: (signal: NodeJS.Signals) => void;
  /** Nobody reads its stdout any more. */
  hangUp: () => void;
  running: () => boolean;
  ended: (withinMs?: number) => Promise<Ended>;
}

/** Starts a program by its path in the repository, in a process that is killed when the test is over. */
export function startProgram(path: string, env: NodeJS.ProcessEnv): Program {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', path], {
    cwd: root,
    env: { PATH: process.env.PATH, HOME: process.env.HOME, TMPDIR: process.env.TMPDIR, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  const out = lines(child.stdout);
  const err = lines(child.stderr);
  let ended: Ended | undefined;
  // After the last line, which "exit" may come before.
  const end = new Promise<Ended>((resolve) => {
    child.once('close', (code, signal) => resolve((ended = { code, signal })));
  });
  return {
    out,
    err,
    says: (text) =>
      eventually(
        `"${text}" from ${path}`,
        () => {
          const line = out.find((said) => said.includes(text));
          if (line === undefined && ended)
            throw new Error(`${path} ended without "${text}": ${err.join('\n')}`);
          return line;
        },
        30_000,
      ),
    send: (signal) => void child.kill(signal),
    hangUp: () => child.stdout.destroy(),
    running: () => !ended,
    ended: (withinMs = 30_000) => within(withinMs, `the end of ${path}`, end),
  };
}

function lines(stream: Readable): string[] {
  const all: string[] = [];
  createInterface({ input: stream }).on('line', (line) => all.push(line));
  return all;
}
