import type { Queryable } from '../db.js';
import type { Id, StoredMessage } from '../types.js';
import { statement } from './statement.js';
import { asStored, storedColumns, type StoredRow } from './stored-rows.js';
import { asStep, exact, type Place, retentionTurn, type Step, type StepRow, type Walk } from './walk.js';

/*
 * The archive of a queue: messages that were done. Archived messages with a row in sluice_failures are dead letters
 * instead (dead-letters.ts).
 */

const DONE = (s: string) => `m.archived_at is not null
    and not exists (select from ${s}.sluice_failures f where f.message_id = m.id and f.dead_at = m.archived_at)`;

/** $1 the queue, $2 and $3 when it was archived in seconds since 1970; null where it doesn't matter. */
const IN_TIME = `m.queue_id = $1 and ($2::float8 is null or m.archived_at >= to_timestamp($2))
    and ($3::float8 is null or m.archived_at < to_timestamp($3))`;

const LIST = statement(
  'list_archive',
  (s) => `
  select ${storedColumns('m')}, ${exact('m.archived_at')} as place from ${s}.pgqrs_messages m
  where ${IN_TIME} and ${DONE(s)} and ($4::timestamptz is null or (m.archived_at, m.id) < ($4, $5::bigint))
  order by m.archived_at desc, m.id desc limit $6`,
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
 * Walks along the primary key, over messages of whatever queue and state, and looks at no more than `$2` of them: an
 * index on archived messages alone would cost a tenth of the time that archiving takes.
 * @param from which messages may go, beside `looked` @param turn whether this statement may do anything
 */
const purgeNext = (name: string, from: (s: string) => string, turn: string) =>
  statement(
    name,
    (s) => `
  with bounds as materialized (
    select coalesce($3::timestamptz, now() - $4::float8 * interval '1 second') as until, ${turn} as turn),
  looked as materialized (
    select m.ctid as at, m.id from ${s}.pgqrs_messages m
    where (select turn from bounds) and ($1::bigint is null or m.id > $1) order by m.id limit $2),
  picked as materialized (
    select m.ctid as at from ${from(s)}
      and m.ctid = any (array(select at from looked)) and ${MAY_GO(s)} for update of m skip locked),
  ${GONE(s)}
  select (select count(*) from gone)::float8 as count, (select count(*) from looked) = $2 as more, turn,
    ${exact('until')} as until, ${exact('until')} as at, (select max(id) from looked)::text as id
  from bounds`,
  );

const PURGE_NEXT = purgeNext(
  'purge_archive',
  (s) => `${s}.pgqrs_messages m where m.queue_id = $5 and m.archived_at <= (select until from bounds)`,
  'true',
);
/** Every queue's archive in one walk. */
const RETAIN_NEXT = purgeNext(
  'retain_archive',
  (s) => `${s}.pgqrs_messages m join ${s}.sluice_queues o on o.queue_id = m.queue_id
    where m.archived_at <= now() - o.archive_seconds * interval '1 second'`,
  retentionTurn('$5'),
);

/** Which messages of an archive are meant. */
export interface ArchivedMeant {
  queueId: Id;
  /** That time or later, in seconds since 1970. */
  archivedAfter: number | null;
  /** Earlier than that, in seconds since 1970. */
  archivedBefore: number | null;
}

/** @returns newest first, each with its place */
export async function listArchive<T>(
  on: Queryable,
  meant: ArchivedMeant,
  before: Place | null,
  limit: number,
): Promise<{ message: StoredMessage<T>; place: Place }[]> {
  const rows = await on.query<StoredRow<T> & { place: string }>(LIST(on.schema), [
    ...filterOf(meant),
    before?.at ?? null,
    before?.id ?? null,
    limit,
  ]);
  return rows.map((row) => ({ message: asStored(row), place: { at: row.place, id: row.id } }));
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
 * Deletes done messages of all queues that do not keep them for so long. @param limit messages to look at
 * @returns nothing when it is another process' turn
 */
export async function retainArchive(
  on: Queryable,
  { after }: Walk,
  limit: number,
): Promise<Step | undefined> {
  const values = [after?.id ?? null, limit, null, 0, on.schema];
  const [row] = (await on.query(RETAIN_NEXT(on.schema), values)) as [StepRow];
  return row.turn ? asStep(row) : undefined;
}

function filterOf({ queueId, archivedAfter, archivedBefore }: ArchivedMeant) {
  return [queueId, archivedAfter, archivedBefore];
}
