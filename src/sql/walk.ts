import type { Id } from '../types.js';

/** A place in an index whose last two columns are a time and an id: that of the row that has them. */
export interface Place {
  /** As the server wrote it: exact, whatever time it is. */
  at: string;
  id: Id;
}

/** How far a walk along an index has come, in statements of bounded size. */
export interface Walk {
  after: Place | null;
  /** What came later is not this walk's business, or it might never end; the first statement sets it. */
  until: string | null;
}

/** Before the first statement. */
export const BEGINNING: Walk = { after: null, until: null };

/** What one statement of a walk has done. */
export interface Step {
  count: number;
  /** Where the next one goes on; nothing when this was the last. */
  next: Walk | undefined;
}

/** A step as the driver brings it. */
export interface StepRow {
  count: number;
  /** Whether it looked at as many entries as it was allowed to. */
  more: boolean;
  /** Whether it was allowed to do anything. */
  turn: boolean;
  until: string;
  at: string | null;
  id: Id | null;
}

export function asStep({ count, more, until, at, id }: StepRow): Step {
  return { count, next: more && at !== null && id !== null ? { after: { at, id }, until } : undefined };
}

/** A time as a Place holds it. JSON's form depends on no setting but TimeZone, and names its offset. */
export const exact = (time: string) => `pg_catalog.to_json(${time}) #>> '{}'::text[]`;

/** Retention is one process' business at a time, statement by statement. @param schema the parameter with its name */
export const retentionTurn = (schema: string) =>
  `pg_try_advisory_xact_lock(hashtextextended('sluice retention '::text || ${schema}::text, 0::bigint))`;
