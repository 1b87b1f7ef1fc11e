import type { Queryable } from '../db.js';
import type { Id } from '../types.js';
import { statement } from './statement.js';

/** A place in an index whose last two columns are a time and an id: that of the row that has them. */
export interface Place {
  /** As the server wrote it: exact, whatever time it is. */
  at: string;
  id: Id;
}

/** How far a walk along an index has come, in statements of bounded size. */
export interface Walk {
  after: Place | null;
  /** What came later, by time or id, is not this walk's business, or it might never end; the first statement sets it. */
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
  until: string;
  at: string | null;
  id: Id | null;
}

export function asStep({ count, more, until, at, id }: StepRow): Step {
  return { count, next: more && at !== null && id !== null ? { after: { at, id }, until } : undefined };
}

/** A time as a Place holds it. JSON's form depends on no setting but TimeZone, and names its offset. */
export const exact = (time: string) => `pg_catalog.to_json(${time}) #>> '{}'::text[]`;

/** Before all ids. */
export const FIRST_ID = `'-9223372036854775808'::bigint`;

/*
 * A walk that all processes share has its place in a row of sluice_walks: each statement takes the place, does its step
 * and moves the place on. The row's lock is the turn: where another process has it, or where the last walk ended less
 * than a rest ago, `mine` is empty and the statement does nothing. It must be in a statement by itself: a process that
 * freezes in the middle of a transaction would keep the turn.
 */

/** @param name the walk, and @param rest the seconds after its end, as expressions */
export const sharedPlace = (s: string, name: string, rest: string) => `mine as materialized (
    select after_at, after_id from ${s}.sluice_walks
    where name = ${name} and (after_id is not null or ended_at is null or ended_at <= now() - ${rest} * interval '1 second')
    for update skip locked)`;

/** @param last the last entry that was looked at: `at`, `id`, and whether there may be `more` behind it */
export const movePlace = (s: string, name: string, last: string) => `moved as (
    update ${s}.sluice_walks w set after_at = case when last.more then last.at end,
      after_id = case when last.more then last.id end, ended_at = case when last.more then w.ended_at else now() end
    from (${last}) last where w.name = ${name} and exists (select from mine))`;

/** What a statement of a shared walk says. */
export const sharedStep = (s: string, name: string) => `exists (select from mine) as turn,
    exists (select from ${s}.sluice_walks where name = ${name}) as known`;

const ADD_WALK = statement(
  'add_walk',
  (s) => `insert into ${s}.sluice_walks (name) values ($1) on conflict (name) do nothing`,
);

/** A statement of a shared walk as the driver brings it. */
export interface SharedStepRow {
  more: boolean;
  turn: boolean;
  /** Whether the walk has a place. */
  known: boolean;
}

/** Runs a statement of a shared walk. @returns whether there is more to do for this process now */
export async function takeStep(
  on: Queryable,
  name: string,
  step: () => Promise<SharedStepRow[]>,
): Promise<boolean> {
  let [row] = await step();
  if (row?.known === false) {
    await on.query(ADD_WALK(on.schema), [name]);
    [row] = await step();
  }
  return row?.turn === true && row.more;
}
