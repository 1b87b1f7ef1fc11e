import type { Queryable } from '../db.js';
import type { ForeignLeases, Id } from '../types.js';
import { statement } from './statement.js';
import type { Place } from './walk.js';

const SWEEP_EXHAUSTED = statement(
  'sweep_exhausted',
  (s) => `
  select ids, returned, more, last_at as at, last_id as id from ${s}.sluice_sweep($1, $2, $3, $4, $5, $6)`,
);

export interface Sweep {
  queueId: Id;
  maxReadCount: number;
  foreignLeases: ForeignLeases;
}

/**
 * One statement of a sweep. Exhausted messages sink to the front of the index, since nobody changes their `vt` any more:
 * a sweep that comes often need not look far.
 * @param limit entries to look at
 * @returns which it has archived, how many it has given back to the queue, and where the next one goes on if there is
 * more to look at
 */
export async function sweepExhausted(
  on: Queryable,
  { queueId, maxReadCount, foreignLeases }: Sweep,
  after: Place | null,
  limit: number,
): Promise<{ ids: Id[]; returned: number; next: Place | undefined }> {
  const [row] = (await on.query(SWEEP_EXHAUSTED(on.schema), [
    queueId,
    maxReadCount,
    foreignLeases,
    after?.at ?? null,
    after?.id ?? null,
    limit,
  ])) as [{ ids: Id[]; returned: number; more: boolean; at: string | null; id: Id | null }];
  const { ids, returned, more, at, id } = row;
  return { ids, returned, next: more && at !== null && id !== null ? { at, id } : undefined };
}
