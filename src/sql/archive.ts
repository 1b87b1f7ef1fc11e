import type { Queryable } from '../db.js';
import type { Id, StoredMessage } from '../types.js';
import { statement } from './statement.js';
import { asStored, storedColumns, type StoredRow } from './stored-rows.js';
import {
  asStep,
  exact,
  FIRST_ID,
  movePlace,
  sharedPlace,
  sharedStep,
  type SharedStepRow,
  type Step,
  type StepRow,
  takeStep,
  type Walk,
} from './walk.js';

/*
 * The archive of a queue: messages that were done. Archived messages with a row in sluice_failures are dead letters
 * instead (dead-letters.ts).
 */

const DONE = (s: string) => `m.archived_at is not null
    and not exists (select from ${s}.sluice_failures f where f.message_id = m.id and f.dead_at = m.archived_at)`;

/** $1 the queue, $2 and $3 when it was archived in seconds since 1970; null where it doesn't matter. */
const IN_TIME = `m.queue_id = $1 and ($2::float8 is null or m.archived_at >= to_timestamp($2))
    and ($3::float8 is null or m.archived_at < to_timestamp($3))`;

/**
 * Goes back along the primary key from before `$4`, over messages of all queues and states, no further than `$6` of
 * them: `last` is the last of these, and null where there are not so many. Both bounds are conditions on the index, so
 * that no plan reads more.
 */
const LIST = statement(
  'list_archive',
  (s) => `
  with step as materialized (
    select (select m.id from ${s}.pgqrs_messages m where $4::bigint is null or m.id < $4
      order by m.id desc offset $6::int - 1 limit 1) as last)
  select step.last::text as last, found.*
  from step left join lateral (
    select ${storedColumns('m')} from ${s}.pgqrs_messages m
    where m.id >= coalesce((select last from step), ${FIRST_ID}) and ($4::bigint is null or m.id < $4)
      and ${IN_TIME} and ${DONE(s)}
    order by m.id desc limit $5) found on true`,
);

const COUNT = statement(
  'count_archive',
  (s) => `select count(*)::float8 as count from ${s}.pgqrs_messages m where ${IN_TIME} and ${DONE(s)}`,
);

/** A workflow run of pgqrs' keeps its message. */
const MAY_GO = (s: string) => `${DONE(s)}
    and not exists (select from ${s}.pgqrs_workflow_runs r where r.message_id = m.id)`;

const GONE = (s: string) =>
  `gone as (delete from ${s}.pgqrs_messages m where m.ctid = any (array(select at from picked)) returning 1)`;

const DELETE_NAMED = statement(
  'delete_archived_by_id',
  (s) => `
  with picked as materialized (
    select m.ctid as at from ${s}.pgqrs_messages m
    where m.queue_id = $1 and m.id = any ($2::bigint[]) and ${MAY_GO(s)} order by m.id for update of m),
  ${GONE(s)}
  select count(*)::float8 as count from gone`,
);

/**
 * What a step of a walk along the primary key deletes, of no more than `limit` messages of all queues and states behind
 * `after`: an index on archived messages alone would cost a tenth of the time that archiving takes.
 * @param from which messages may go, beside `looked`
 */
const goNext = (s: string, { after, limit, from }: { after: string; limit: string; from: string }) => `
  looked as materialized (
    select m.ctid as at, m.id from ${s}.pgqrs_messages m where m.id > ${after} order by m.id limit ${limit}),
  picked as materialized (
    select m.ctid as at from ${s}.pgqrs_messages m ${from}
      and m.ctid = any (array(select at from looked)) and ${MAY_GO(s)} for update of m skip locked),
  ${GONE(s)}`;

const PURGE_NEXT = statement(
  'purge_archive',
  (s) => `
  with bounds as materialized (
    select coalesce($3::timestamptz, now() - $4::float8 * interval '1 second') as until),${goNext(s, {
      after: `coalesce($1, ${FIRST_ID})`,
      limit: '$2',
      from: 'where m.queue_id = $5 and m.archived_at <= (select until from bounds)',
    })}
  select (select count(*) from gone)::float8 as count, (select count(*) from looked) = $2 as more,
    ${exact('until')} as until, ${exact('until')} as at, (select max(id) from looked)::text as id
  from bounds`,
);

const RETENTION = 'archive';

/**
 * Every queue's archive in one walk over the table. What is kept for a week need not go within seconds: the walk rests
 * for a hundredth of the shortest time that any queue keeps its archive.
 */
const RETAIN_NEXT = statement(
  'retain_archive',
  (s) => `
  with ${sharedPlace(s, '$1', `greatest($2::float8, (select min(archive_seconds) from ${s}.sluice_queues) / 100::float8)`)},${goNext(
    s,
    {
      after: `(select coalesce(after_id, ${FIRST_ID}) from mine)`,
      limit: '$3',
      from: `join ${s}.sluice_queues o on o.queue_id = m.queue_id
    where m.archived_at <= now() - o.archive_seconds * interval '1 second'`,
    },
  )},
  ${movePlace(s, '$1', `select count(*) = $3 as more, null::timestamptz as at, max(id) as id from looked`)}
  select (select count(*) from looked) = $3 as more, ${sharedStep(s, '$1')}`,
);

/** Which messages of an archive are meant. */
export interface ArchivedMeant {
  queueId: Id;
  /** That time or later, in seconds since 1970. */
  archivedAfter: number | null;
  /** Earlier than that, in seconds since 1970. */
  archivedBefore: number | null;
}

/**
 * @param before ids below that one only @param entries messages to look at
 * @returns highest ids first, and the last id that it looked at if there are lower ones
 */
export async function listArchive<T>(
  on: Queryable,
  meant: ArchivedMeant,
  before: Id | null,
  limit: number,
  entries: number,
): Promise<{ messages: StoredMessage<T>[]; last: Id | null }> {
  const values = [...filterOf(meant), before, limit, entries];
  const rows = await on.query<{ last: Id | null } & (StoredRow<T> | { id: null })>(LIST(on.schema), values);
  const found = rows.filter((row): row is typeof row & StoredRow<T> => row.id !== null);
  return { messages: found.map((row) => asStored(row)), last: rows[0]?.last ?? null };
}

export async function countArchive(on: Queryable, meant: ArchivedMeant): Promise<number> {
  const [row] = await on.query<{ count: number }>(COUNT(on.schema), filterOf(meant));
  return row?.count ?? 0;
}

/** @returns how many of them were done messages of the queue, and are no more */
export async function deleteArchived(on: Queryable, queueId: Id, ids: readonly Id[]): Promise<number> {
  const [row] = await on.query<{ count: number }>(DELETE_NAMED(on.schema), [queueId, ids]);
  return row?.count ?? 0;
}

/** Deletes done messages that were archived that long ago. @param limit messages to look at */
export async function purgeArchive(
  on: Queryable,
  queueId: Id,
  olderThanSeconds: number,
  { after, until }: Walk,
  limit: number,
): Promise<Step> {
  const values = [after?.id ?? null, limit, until, olderThanSeconds, queueId];
  const [row] = (await on.query(PURGE_NEXT(on.schema), values)) as [StepRow];
  return asStep(row);
}

/**
 * A step of the walk that deletes done messages of all queues that do not keep them for so long.
 * @param restSeconds least time between two walks @param limit messages to look at
 * @returns whether there is more to do for this process now
 */
export async function retainArchive(on: Queryable, restSeconds: number, limit: number): Promise<boolean> {
  return takeStep(on, RETENTION, () =>
    on.query<SharedStepRow>(RETAIN_NEXT(on.schema), [RETENTION, restSeconds, limit]),
  );
}

function filterOf({ queueId, archivedAfter, archivedBefore }: ArchivedMeant) {
  return [queueId, archivedAfter, archivedBefore];
}
