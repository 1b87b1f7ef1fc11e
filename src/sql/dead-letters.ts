import type { Queryable } from '../db.js';
import type { DeadMessage, Id } from '../types.js';
import { replayed } from './replay.js';
import { statement } from './statement.js';
import { asStored, storedColumns, type StoredRow } from './stored-rows.js';
import { date, seconds } from './time.js';
import {
  asStep,
  exact,
  FIRST_ID,
  movePlace,
  type Place,
  sharedPlace,
  sharedStep,
  type SharedStepRow,
  type Step,
  type StepRow,
  takeStep,
  type Walk,
} from './walk.js';

/*
 * A dead letter is an archived message with a row in sluice_failures of the same moment. pgqrs' replay_dlq brings a
 * message back and leaves that row behind, and the message may then be done: so a row alone says nothing. Everybody locks the message first and its failure then.
 */

/** $1 the queue, $2 the reason, $3 and $4 the time of death in seconds since 1970; null where it doesn't matter. */
const IN_TIME = `f.queue_id = $1 and ($3::float8 is null or f.dead_at >= to_timestamp($3))
    and ($4::float8 is null or f.dead_at < to_timestamp($4))`;
const BY_REASON = '($2::text is null or f.reason = $2)';

const LIST = statement(
  'list_dead_letters',
  (s) => `
  select ${storedColumns('m')}, f.reason, f.last_error as "lastError", f.attempts, ${seconds('f.dead_at')} as "deadAt",
    ${exact('f.dead_at')} as place
  from ${s}.sluice_failures f join ${s}.pgqrs_messages m on m.id = f.message_id
  where ${IN_TIME} and ${BY_REASON} and m.archived_at = f.dead_at
    and ($5::timestamptz is null or (f.dead_at, f.message_id) < ($5, $6::bigint))
  order by f.dead_at desc, f.message_id desc limit $7`,
);

const COUNT = statement(
  'count_dead_letters',
  (s) => `
  select count(*)::float8 as count
  from ${s}.sluice_failures f join ${s}.pgqrs_messages m on m.id = f.message_id
  where ${IN_TIME} and ${BY_REASON} and m.archived_at = f.dead_at`,
);

const BY_PLACE = 'm.ctid = any (array(select at from picked))';

/** What is done to dead letters that `picked` has locked. */
const CHANGES = {
  replay: (s: string) => `
  changed as (${replayed(s, BY_PLACE)} returning m.id),
  forgotten as (delete from ${s}.sluice_failures where message_id = any (array(select id from changed)))`,
  // The delete trigger takes the failures along.
  purge: (s: string) => `
  changed as (delete from ${s}.pgqrs_messages m where ${BY_PLACE} returning m.id)`,
};

/** A workflow run of pgqrs' keeps its message. */
const UNREFERENCED = (s: string) =>
  `and not exists (select from ${s}.pgqrs_workflow_runs r where r.message_id = m.id)`;
const MAY = { replay: () => '', purge: UNREFERENCED };

const changeNamed = (name: string, change: keyof typeof CHANGES) =>
  statement(
    name,
    (s) => `
  with picked as materialized (
    select m.ctid as at from ${s}.sluice_failures f join ${s}.pgqrs_messages m on m.id = f.message_id
    where f.queue_id = $1 and f.message_id = any ($2::bigint[]) and m.archived_at = f.dead_at ${MAY[change](s)}
    order by m.id for update of m),${CHANGES[change](s)}
  select count(*)::float8 as count from changed`,
  );

/** What a step changes of the entries that it has `looked` at: what it may not touch, or what is locked, is passed over. */
const changeLooked = (s: string, to: keyof typeof CHANGES, which = 'true') => `
  picked as materialized (
    select m.ctid as at from looked f join ${s}.pgqrs_messages m on m.id = f.id
    where ${which} and m.archived_at = f.dead_at ${MAY[to](s)}
    for update of m skip locked),${CHANGES[to](s)}`;

const LAST_LOOKED = 'select dead_at, id from looked order by dead_at desc, id desc limit 1';

/** Walks along the index, from the oldest on, and looks at no more than `$8` entries. */
const changeNext = (name: string, to: keyof typeof CHANGES) =>
  statement(
    name,
    (s) => `
  with bounds as materialized (select coalesce($5::timestamptz, now()) as until),
  looked as materialized (
    select f.message_id as id, f.dead_at, f.reason from ${s}.sluice_failures f
    where ${IN_TIME} and f.dead_at <= (select until from bounds)
      and ($6::timestamptz is null or (f.dead_at, f.message_id) > ($6, $7::bigint))
    order by f.dead_at, f.message_id limit $8),${changeLooked(s, to, BY_REASON)}
  select (select count(*) from changed)::float8 as count, (select count(*) from looked) = $8 as more,
    ${exact('until')} as until, ${exact('l.dead_at')} as at, l.id::text as id
  from bounds left join (${LAST_LOOKED}) l on true`,
  );

/** The walk over the dead letters of the queue `$4`: one that is kept for a workflow must not hide those behind it. */
const RETAIN_NEXT = statement(
  'retain_dead_letters',
  (s) => `
  with ${sharedPlace(s, '$1', '$2::float8')},
  looked as materialized (
    select f.message_id as id, f.dead_at from ${s}.sluice_failures f
    where f.queue_id = $4 and f.dead_at <= now() - $5::float8 * interval '1 second' and exists (select from mine)
      and (f.dead_at, f.message_id) > (select coalesce(after_at, '-infinity'), coalesce(after_id, ${FIRST_ID}) from mine)
    order by f.dead_at, f.message_id limit $3),${changeLooked(s, 'purge')},
  ${movePlace(
    s,
    '$1',
    `select (select count(*) from looked) = $3 as more, l.dead_at as at, l.id
      from (select 1) one left join (${LAST_LOOKED}) l on true`,
  )}
  select (select count(*) from looked) = $3 as more, ${sharedStep(s, '$1')}`,
);

const REPLAY_NAMED = changeNamed('replay_dead_letters_by_id', 'replay');
const PURGE_NAMED = changeNamed('purge_dead_letters_by_id', 'purge');
const REPLAY_NEXT = changeNext('replay_dead_letters', 'replay');
const PURGE_NEXT = changeNext('purge_dead_letters', 'purge');

/** Which dead letters of a queue are meant. */
export interface DeadLettersMeant {
  queueId: Id;
  reason: string | null;
  /** That time or later, in seconds since 1970. */
  deadAfter: number | null;
  /** Earlier than that, in seconds since 1970. */
  deadBefore: number | null;
}

interface DeadRow<T> extends StoredRow<T> {
  reason: string;
  lastError: string | null;
  attempts: number;
  deadAt: number;
  place: string;
}

/** @returns newest first, each with its place */
export async function listDeadLetters<T>(
  on: Queryable,
  meant: DeadLettersMeant,
  before: Place | null,
  limit: number,
): Promise<{ message: DeadMessage<T>; place: Place }[]> {
  const rows = await on.query<DeadRow<T>>(LIST(on.schema), [
    ...filterOf(meant),
    before?.at ?? null,
    before?.id ?? null,
    limit,
  ]);
  return rows.map((row) => {
    const { reason, lastError, attempts, deadAt, place } = row;
    const message = { ...asStored(row), reason, lastError, attempts, deadAt: date(deadAt) };
    return { message, place: { at: place, id: row.id } };
  });
}

export async function countDeadLetters(on: Queryable, meant: DeadLettersMeant): Promise<number> {
  const [row] = await on.query<{ count: number }>(COUNT(on.schema), filterOf(meant));
  return row?.count ?? 0;
}

/** @returns how many of them were dead letters of the queue, and are no more */
export async function changeDeadLettersById(
  on: Queryable,
  change: 'replay' | 'purge',
  queueId: Id,
  ids: readonly Id[],
): Promise<number> {
  const text = change === 'replay' ? REPLAY_NAMED : PURGE_NAMED;
  const [row] = await on.query<{ count: number }>(text(on.schema), [queueId, ids]);
  return row?.count ?? 0;
}

/** @param limit entries to look at */
export async function changeDeadLetters(
  on: Queryable,
  change: 'replay' | 'purge',
  meant: DeadLettersMeant,
  { after, until }: Walk,
  limit: number,
): Promise<Step> {
  const text = change === 'replay' ? REPLAY_NEXT : PURGE_NEXT;
  const place = [until, after?.at ?? null, after?.id ?? null];
  const [row] = (await on.query(text(on.schema), [...filterOf(meant), ...place, limit])) as [StepRow];
  return asStep(row);
}

/**
 * A step of the walk that deletes dead letters older than that.
 * @param restSeconds least time between two walks @param limit entries to look at
 * @returns whether there is more to do for this process now
 */
export async function retainDeadLetters(
  on: Queryable,
  { queueId, olderThanSeconds }: { queueId: Id; olderThanSeconds: number },
  restSeconds: number,
  limit: number,
): Promise<boolean> {
  const name = `dead letters of ${queueId}`;
  return takeStep(on, name, () =>
    on.query<SharedStepRow>(RETAIN_NEXT(on.schema), [name, restSeconds, limit, queueId, olderThanSeconds]),
  );
}

function filterOf({ queueId, reason, deadAfter, deadBefore }: DeadLettersMeant) {
  return [queueId, reason, deadAfter, deadBefore];
}
