import type { Db } from '../db.js';
import type { LeaseLostError } from '../errors/index.js';
import type { Message } from '../message.js';
import type { HoldingParts } from './holding.js';
import type { Failure } from './outcome.js';
import { type Call, inTransaction, plainly } from './perform.js';
import { Run } from './run.js';
import type { CheckedRunOptions, RunSummary } from './run-options.js';

export interface RunsOptions extends HoldingParts {
  db: Db;
  onFailed: (failure: Failure) => void;
  onLost: (message: Message, error: LeaseLostError | undefined) => void;
}

/** The runs of one consumer. */
export class Runs {
  readonly #runs = new Set<Run>();

  constructor(private readonly options: RunsOptions) {}

  start(call: Call, run: CheckedRunOptions): Promise<RunSummary> {
    const { db, deliveries } = this.options;
    const perform = run.transactional ? inTransaction(call, db, deliveries, run.onSuccess) : plainly(call);
    const started = new Run({ ...this.options, perform }, run);
    this.#runs.add(started);
    return started.ended.finally(() => this.#runs.delete(started));
  }

  /** Resolves when all of them have ended, in order. */
  async stop(): Promise<void> {
    await Promise.all([...this.#runs].map((run) => run.stop()));
  }
}
