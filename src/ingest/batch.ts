import type { Transaction } from '../sql/batches.js';
import type { FlushMethod } from './flush.js';
import type { Rejected } from './rejects.js';
import type { Rows } from './rows.js';

/** One batch on its way: its rows, where it ends in the source, and what is known of its transactions. */
export class Batch {
  /** The last transaction that was opened for it. */
  transaction: Transaction | undefined;
  /** From the moment its COMMIT is on the wire, until that is refused, nobody but the ledger knows whether it is in. */
  commitSent = false;
  /** Found committed by the ledger, after the answer to a COMMIT was lost. */
  resolved = false;
  method: FlushMethod = 'copy';
  /** Rows of it that are in the queue, once it is committed; the others were duplicates. */
  committedRows = 0;
  readonly msByPhase = { begin: 0, transfer: 0, turn: 0, commit: 0 };

  constructor(
    /** Those that are going to be in. */
    public rows: Rows,
    /** Items that are not among the rows, and not reported yet. */
    readonly rejects: Rejected[],
    /** Items of the source that it accounts for. */
    readonly items: number,
    /** Source position of the last of them. */
    readonly position: string,
  ) {}
}
