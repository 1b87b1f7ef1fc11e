import type { Db } from './db.js';
import { answered, STEP_ENTRIES } from './in-steps.js';
import { type Sweep, sweepExhausted } from './sql/exhausted.js';
import type { Place } from './sql/walk.js';
import type { Id } from './types.js';

/** Sweeps a whole queue, statement by statement. @returns the ids of what it has archived */
export async function sweepQueue(db: Db, sweep: Sweep): Promise<Id[]> {
  const swept: Id[][] = [];
  let place: Place | undefined;
  do {
    const after = place ?? null;
    const { ids, next } = await answered(db, 'sweeping exhausted messages', (on) =>
      sweepExhausted(on, sweep, after, STEP_ENTRIES),
    );
    swept.push(ids);
    place = next;
  } while (place);
  return swept.flat();
}
