import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { within } from '../support/eventually.js';

/** A message as pgqrs' Python client shows it: dates are RFC 3339 strings. */
export interface PeerMessage {
  id: number;
  queue_id: number;
  payload: unknown;
  vt: string;
  enqueued_at: string;
  read_ct: number;
  dequeued_at: string | null;
  producer_worker_id: number | null;
  consumer_worker_id: number | null;
  archived_at: string | null;
}

/** A worker as pgqrs' Python client shows it. */
export interface PeerWorker {
  id: number;
  name: string;
  queue_id: number | null;
  heartbeat_at: string;
  status: string;
}

/** Set by run.sh, which makes the virtual environment; the plain test run goes without. */
const { PGQRS_VENV, PGQRS_SKIP } = process.env;
const PYTHON = `${PGQRS_VENV ?? ''}/bin/python`;

/** Why there is no client to test against; undefined when there is one. */
export const missing =
  PGQRS_SKIP ?? (PGQRS_VENV && existsSync(PYTHON) ? undefined : 'they run by `npm run test:interop`');

if (missing !== undefined) console.warn(`interoperability tests skipped: ${missing}`);

export class PeerError extends Error {
  constructor(
    readonly type: string,
    message: string,
  ) {
    super(message);
  }
}

type Pending = { resolve: (value: unknown) => void; reject: (error: Error) => void };

/** pgqrs' own Python client in a process of its own; one command after another. */
export class Peer {
  readonly #child: ChildProcess;
  readonly #pending: Pending[] = [];
  #complaints = '';

  constructor(url: string, schema: string) {
    const script = fileURLToPath(new URL('pgqrs_peer.py', import.meta.url));
    const child = spawn(PYTHON, [script, url, schema], { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child = child;
    child.stderr.on('data', (text: Buffer) => (this.#complaints += text.toString()));
    child.stdin.on('error', () => undefined);
    createInterface(child.stdout).on('line', (line) => {
      const answer = JSON.parse(line) as { ok?: unknown; error?: string; message?: string };
      const pending = this.#pending.shift();
      if (answer.error === undefined) pending?.resolve(answer.ok);
      else pending?.reject(new PeerError(answer.error, answer.message ?? ''));
    });
    child.once('close', () => {
      for (const { reject } of this.#pending.splice(0))
        reject(new Error(`the peer ended: ${this.#complaints}`));
    });
    onTestFinished(() => this.stop());
  }

  do<T = unknown>(command: string, args: Record<string, unknown> = {}): Promise<T> {
    const answer = new Promise<T>((resolve, reject) => {
      this.#pending.push({ resolve: resolve as Pending['resolve'], reject });
    });
    this.#child.stdin?.write(`${JSON.stringify({ do: command, ...args })}\n`);
    return within(20_000, `pgqrs does ${command}`, answer);
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const closed = new Promise((resolve) => this.#child.once('close', resolve));
    this.#child.kill('SIGKILL');
    await closed;
  }
}
