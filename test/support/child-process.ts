import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { within } from './eventually.js';

export interface Child {
  process: ChildProcess;
  /** The next message that it sends. */
  next: (withinMs?: number) => Promise<unknown>;
  /** Its exit code, when it ends by itself. */
  exit: (withinMs?: number) => Promise<number>;
}

/** Runs a TypeScript file of this folder in a process of its own; killed when the test is over. */
export function startChild(file: string, ...args: string[]): Child {
  return startChildWith([], file, ...args);
}

/** As `startChild`, with options of Node's. */
export function startChildWith(nodeOptions: readonly string[], file: string, ...args: string[]): Child {
  const path = fileURLToPath(new URL(file, import.meta.url));
  const child = spawn(process.execPath, [...nodeOptions, '--import', 'tsx', path, ...args], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const messages: unknown[] = [];
  child.on('message', (message) => messages.push(message));
  const exited = once(child, 'exit') as Promise<[number]>;
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  return {
    process: child,
    next: async (withinMs = 20_000) => {
      while (messages.length === 0) {
        await within(
          withinMs,
          `a message from ${file}`,
          Promise.race([
            once(child, 'message'),
            exited.then(([code]) => {
              throw new Error(`${file} exited with ${code}`);
            }),
          ]),
        );
      }
      return messages.shift();
    },
    exit: async (withinMs = 20_000) => (await within(withinMs, `the exit of ${file}`, exited))[0],
  };
}
