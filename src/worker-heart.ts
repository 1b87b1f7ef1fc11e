import type { Db } from './db.js';
import * as sql from './sql/workers.js';
import type { WorkerStatus } from './types.js';
import { Pulse } from './worker-pulse.js';

/** What a beat brought a worker: the state that it found, nothing where the row is gone, or why it failed. */
export type Beat = WorkerStatus | Error | undefined;

/** A worker that is kept alive. */
export interface Beating {
  readonly self: sql.Incarnation;
  /** A beat is about to be sent. @returns what is told its outcome */
  beats: () => (outcome: Beat) => void;
}

interface Rhythm {
  pulse: Pulse;
  members: Set<Beating>;
}

const hearts = new WeakMap<Db, Heart>();

/**
 * Keeps all workers of one database connection alive: one statement for all that have the same interval, however many
 * there are.
 */
export class Heart {
  readonly #rhythms = new Map<number, Rhythm>();

  private constructor(private readonly db: Db) {}

  static of(db: Db): Heart {
    const heart = hearts.get(db) ?? new Heart(db);
    hearts.set(db, heart);
    return heart;
  }

  /** Has the worker beat from now on. @returns what ends that; twice is fine */
  join(intervalMs: number, worker: Beating): () => void {
    const rhythm = this.#rhythms.get(intervalMs) ?? this.#rhythm(intervalMs);
    rhythm.members.add(worker);
    return () => {
      if (!rhythm.members.delete(worker) || rhythm.members.size > 0) return;
      rhythm.pulse.stop();
      this.#rhythms.delete(intervalMs);
    };
  }

  #rhythm(intervalMs: number): Rhythm {
    const members = new Set<Beating>();
    const rhythm = { members, pulse: new Pulse(intervalMs, () => this.#beat(members)) };
    this.#rhythms.set(intervalMs, rhythm);
    return rhythm;
  }

  /** Never rejects. */
  async #beat(members: ReadonlySet<Beating>): Promise<void> {
    const sent = [...members].map((worker) => ({ worker, told: worker.beats() }));
    const refs = sent.map(({ worker }) => worker.self);
    const found = await sql.beat(this.db.urgent, refs).catch((error: unknown) => error as Error);
    for (const { worker, told } of sent) {
      // Not to who has left meanwhile.
      if (members.has(worker)) told(found instanceof Error ? found : found.get(worker.self.id));
    }
  }
}
