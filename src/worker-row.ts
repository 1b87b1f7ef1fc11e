import * as check from './check.js';
import type { Queryable } from './db.js';
import { InvalidStateTransitionError } from './errors/index.js';
import * as sql from './sql/workers.js';
import type { WorkerInfo, WorkerStatus } from './types.js';

/** How old something is: the sum of both. */
export interface Age {
  seconds?: number;
  minutes?: number;
}

const AGE: check.Names<Age> = { seconds: true, minutes: true };

interface Transition {
  from: readonly WorkerStatus[];
  to: WorkerStatus;
  reason: string;
}

/**
 * The states of a worker. A worker is registered as `ready`; a poller goes to and fro between `ready` and `polling`.
 * Whoever interrupts it makes it `interrupted`, which it answers by suspending itself. From any of these it may be
 * `suspended`, and from there goes back to `ready` or on to `stopped`, which only a new registration leaves.
 * The reasons are pgqrs' words.
 */
const TRANSITIONS = {
  suspend: {
    from: ['ready', 'polling', 'interrupted'],
    to: 'suspended',
    reason: 'Worker must be Ready, Polling, or Interrupted to suspend',
  },
  resume: { from: ['suspended'], to: 'ready', reason: 'Worker must be in Suspended state to resume' },
  poll: { from: ['ready', 'polling'], to: 'polling', reason: 'Worker must be Ready to start polling' },
  completePoll: {
    from: ['polling'],
    to: 'ready',
    reason: 'Worker must be in Polling state to complete polling',
  },
  interrupt: {
    from: ['polling'],
    to: 'interrupted',
    reason: 'Worker must be in Polling state to be interrupted',
  },
  shutdown: { from: ['suspended'], to: 'stopped', reason: 'Worker must be in Suspended state to shutdown' },
} satisfies Record<string, Transition>;

export type WorkerAction = keyof typeof TRANSITIONS;

/** What `stop()` may find: any state but the last. */
const RUNNING: readonly WorkerStatus[] = ['ready', 'polling', 'interrupted', 'suspended'];

/** Whose row it is. */
export interface RowUser {
  /** The error for a row that is not there, or not in this incarnation. */
  gone: () => Error;
  /** Told every state in which a look, a beat or a refused move found the row, before its caller is. */
  found?: (status: WorkerStatus) => void;
}

/** One row of pgqrs_workers, in one incarnation or in any: what every worker, ours or not, can be asked and told. */
export class WorkerRow {
  constructor(
    private readonly on: Queryable,
    private readonly which: sql.WorkerRef,
    private readonly user: RowUser,
  ) {}

  async info(): Promise<WorkerInfo> {
    return (await this.#read()).info;
  }

  async status(): Promise<WorkerStatus> {
    return (await this.info()).status;
  }

  /** Whether the last heartbeat is at most that old, by the server's clock. */
  async isHealthy(age: Age): Promise<boolean> {
    const limit = limitOf(age);
    return (await this.#read()).heartbeatAgeSeconds <= limit;
  }

  /** @returns the state that the beat found */
  async heartbeat(): Promise<WorkerStatus> {
    const status = (await sql.beat(this.on, [this.which])).get(this.which.id);
    if (status === undefined) throw this.user.gone();
    this.user.found?.(status);
    return status;
  }

  /** @returns the state that the row is in now @throws {InvalidStateTransitionError} */
  async move(action: WorkerAction): Promise<WorkerStatus> {
    const { from, to, reason }: Transition = TRANSITIONS[action];
    const answer = await sql.moveWorker(this.on, this.which, from, to);
    if (!answer) throw this.user.gone();
    if (!answer.moved) {
      this.user.found?.(answer.from);
      throw new InvalidStateTransitionError(answer.from, to, reason);
    }
    return to;
  }

  /** Answers an interruption, as pgqrs' pollers do: who is still interrupted ends suspended. @returns the state now */
  async yield(): Promise<WorkerStatus> {
    const answer = await sql.moveWorker(this.on, this.which, ['interrupted'], 'suspended');
    if (!answer) throw this.user.gone();
    if (answer.moved) return 'suspended';
    this.user.found?.(answer.from); // somebody was faster
    return answer.from;
  }

  /** To `stopped` in one step, from whatever state; a row that is gone has nothing left to leave. */
  async stop(): Promise<void> {
    await sql.moveWorker(this.on, this.which, RUNNING, 'stopped');
  }

  async #read() {
    const row = await sql.selectWorker(this.on, this.which);
    if (!row) throw this.user.gone();
    this.user.found?.(row.info.status);
    return row;
  }
}

/** A checked age, in seconds. */
export function limitOf(age: Age): number {
  const { seconds, minutes } = check.options('isHealthy()', age, AGE);
  if (minutes === undefined) check.number('age.seconds', seconds, { min: 0 });
  if (minutes !== undefined) check.number('age.minutes', minutes, { min: 0 });
  return check.number('age', (seconds ?? 0) + (minutes ?? 0) * 60, { min: 0 });
}
