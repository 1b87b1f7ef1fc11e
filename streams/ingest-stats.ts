import type { IngestProgress } from '../src/errors/index.js';
import type { CommittedBatch } from './sink.js';

/** What a stream has done so far. */
export interface IngestStats {
  /** Items taken from the source. */
  accepted: number;
  /** Rows that it put into the queue. */
  committed: number;
  /** Items that were left out, since their keys had come before (`dedupeKey`). */
  duplicates: number;
  /** Items that were left out, since they cannot be stored (`onReject`, `rejectTo`). */
  rejected: number;
  /** Bytes sent and committed. */
  bytes: number;
  batches: number;
  /** How often a batch was sent again. */
  retries: number;
  /** Commits whose answer was lost, and that the ledger found. */
  resolved: number;
  /** Source position behind the last committed item; empty before the first. */
  position: string;
  /** Time since the first item, in seconds; it stands still when the stream is over. */
  seconds: number;
  /** Committed rows per second since the first item. */
  rowsPerSecond: number;
  /** Time of all batches by phase, in ms; batches overlap. */
  ms: CommittedBatch['ms'];
}

/** Adds up what a stream does. */
export class Tally {
  readonly #counts = {
    accepted: 0,
    committed: 0,
    duplicates: 0,
    rejected: 0,
    bytes: 0,
    batches: 0,
    retries: 0,
    resolved: 0,
    position: '',
  };
  readonly #ms = { begin: 0, transfer: 0, turn: 0, commit: 0 };
  #startedAt: number | undefined;
  #ended: { at: number; progress: IngestProgress } | undefined;

  /** As far as batches have told, until the end is known. */
  get progress(): IngestProgress {
    const { committed, position } = this.#counts;
    return this.#ended?.progress ?? { committed, position };
  }

  get stats(): IngestStats {
    const { committed, position } = this.progress;
    const now = this.#ended?.at ?? performance.now();
    const seconds = this.#startedAt === undefined ? 0 : (now - this.#startedAt) / 1_000;
    return {
      ...this.#counts,
      ...{ committed, position },
      seconds,
      rowsPerSecond: seconds === 0 ? 0 : committed / seconds,
      ms: { ...this.#ms },
    };
  }

  /** The stream goes on behind that position. */
  opened(position: string): void {
    this.#counts.position = position;
  }

  /** An item is there; the first one starts the clock. */
  arrived(): void {
    this.#startedAt ??= performance.now();
  }

  taken(): void {
    this.#counts.accepted++;
  }

  retried(): void {
    this.#counts.retries++;
  }

  committed({ rows, duplicates, rejected, bytes, resolved, position, ms }: CommittedBatch): void {
    const counts = this.#counts;
    counts.committed += rows;
    counts.duplicates += duplicates;
    counts.rejected += rejected;
    counts.bytes += bytes;
    counts.batches++;
    if (resolved) counts.resolved++;
    counts.position = position;
    for (const phase of ['begin', 'transfer', 'turn', 'commit'] as const) this.#ms[phase] += ms[phase];
  }

  ended(progress: IngestProgress): void {
    this.#ended = { at: performance.now(), progress };
  }
}
