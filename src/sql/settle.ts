import type { Queryable, Session } from '../db.js';
import type { Id } from '../types.js';
import { prepared, statement } from './statement.js';
import { exact, FIRST_ID, type Place } from './walk.js';
import type { Incarnation } from './workers.js';

/** One delivery of a message: renewals change `vt`, so only the count tells it from the next one. */
export interface Delivery {
  id: Id;
  /** Null: whichever delivery the worker holds, as pgqrs' calls by id mean it. */
  readCount: number | null;
}

/** How a message that is done is settled. */
export type SettledBy = 'archive' | 'delete';

/** A statement about deliveries: their ids and counts, the worker, its incarnation, and more. */
const about = (name: string, routine: string, more = '') =>
  statement(name, (s) => `select ${s}.${routine}($1, $2, $3, $4${more}) as changed`);

const SETTLE: Record<SettledBy, (schema: string) => string> = {
  archive: about('archive_messages', 'sluice_archive'),
  delete: about('delete_messages', 'sluice_delete'),
};
const EXTEND = about('extend_messages', 'sluice_extend', ', $5');
const GIVE_BACK = about('give_back_messages', 'sluice_give_back');
const RELEASE = about('release_messages', 'sluice_release', ', $5, $6, $7');
const MARK_BEGUN = about('mark_begun', 'sluice_mark_begun');
const WERE_ARCHIVED = about('were_archived', 'sluice_were_archived');
const RENEW = statement(
  'renew_leases',
  (s) => `select held, renewed from ${s}.sluice_renew($1, $2, $3, $4, $5)`,
);

/**
 * Looks at no more than `$6` messages of the queue that became due after the incarnation began: no lease of its ends
 * before that. One row, or none when the incarnation is over: its successor's leases are not counted.
 */
const COUNT_HELD = statement(
  'count_held_messages',
  (s) => `
  with me as materialized (
    select id, started_at from ${s}.pgqrs_workers where id = $2 and started_at = $3::timestamptz),
  looked as materialized (
    select m.vt, m.id, m.consumer_worker_id as holder from ${s}.pgqrs_messages m
    where m.queue_id = $1 and m.archived_at is null and m.vt >= (select started_at from me)
      and (m.vt, m.id) > (coalesce($4::timestamptz, '-infinity'), coalesce($5, ${FIRST_ID}))
    order by m.vt, m.id limit $6)
  select (select count(*) from looked where holder = me.id)::int as count,
    (select count(*) from looked) = $6 as more, ${exact('last.vt')} as at, last.id::text as id
  from me left join (select vt, id from looked order by vt desc, id desc limit 1) last on true`,
);

/** What becomes of a message that is not done. */
export interface Release extends Delivery {
  /** Until it is due again. */
  delaySeconds: number;
  /** Why it is a dead letter instead. */
  dead?: { reason: string; lastError: string | null } | undefined;
}

/** Deliveries that are done, and how they are settled. */
export interface Settlement {
  by: SettledBy;
  held: readonly Delivery[];
}

/**
 * Each answers for each delivery, in input order, whether the worker held it. That it did not is as certain as a change:
 * it is answered once it is safe on the standbys that the server waits for.
 */
type Answers = Promise<boolean[]>;

export function settleMessages(
  on: Queryable | Session,
  worker: Incarnation,
  { by, held }: Settlement,
): Answers {
  return change(SETTLE[by], on, worker, held);
}

/**
 * Of deliveries that are not held any more: whether it is because the worker has archived them as done. What was buried
 * among the dead letters was not.
 */
export function wereArchived(
  on: Queryable | Session,
  worker: Incarnation,
  deliveries: readonly Delivery[],
): Answers {
  return change(WERE_ARCHIVED, on, worker, deliveries);
}

export function giveBackMessages(
  on: Queryable | Session,
  worker: Incarnation,
  held: readonly Delivery[],
): Answers {
  return change(GIVE_BACK, on, worker, held);
}

/** Handlers are about to begin: these deliveries count, even if this process does not live to tell how they ended. */
export function markBegun(on: Queryable | Session, worker: Incarnation, held: readonly Delivery[]): Answers {
  return change(MARK_BEGUN, on, worker, held);
}

export function extendMessages(
  on: Queryable | Session,
  worker: Incarnation,
  held: readonly Delivery[],
  seconds: number,
): Answers {
  return change(EXTEND, on, worker, held, seconds);
}

/** What became of a lease: it lasts that long from now; it is as it was, since somebody is settling it; or it is over. */
export type Renewal = 'renewed' | 'held' | 'lost';

/** @returns for each delivery, in input order */
export async function renewLeases(
  on: Queryable,
  worker: Incarnation,
  deliveries: readonly Delivery[],
  lockSeconds: number,
): Promise<Renewal[]> {
  const [row] = await on.query<{ held: string[] | null; renewed: string[] | null }>(RENEW(on.schema), [
    ...namesOf(deliveries),
    ...[worker.id, worker.incarnation, lockSeconds],
  ]);
  const held = areIn(row?.held ?? null, deliveries);
  const renewed = areIn(row?.renewed ?? null, deliveries);
  return deliveries.map((_, at) => (renewed[at] ? 'renewed' : held[at] ? 'held' : 'lost'));
}

export function releaseMessages(
  on: Queryable | Session,
  worker: Incarnation,
  releases: readonly Release[],
): Answers {
  return change(
    RELEASE,
    on,
    worker,
    releases,
    releases.map(({ delaySeconds }) => delaySeconds),
    releases.map(({ dead }) => dead?.reason ?? null),
    releases.map(({ dead }) => dead?.lastError ?? null),
  );
}

/**
 * A step of counting what the worker has not settled of the queue, expired leases too.
 * @param limit messages to look at @returns also where the next step goes on; nothing when the worker is fenced
 */
export async function countHeldMessages(
  on: Queryable,
  queueId: Id,
  { id, incarnation }: Incarnation,
  after: Place | undefined,
  limit: number,
): Promise<{ count: number; next: Place | undefined } | undefined> {
  const place = [after?.at ?? null, after?.id ?? null];
  const [row] = await on.query<{ count: number; more: boolean; at: string | null; id: Id | null }>(
    COUNT_HELD(on.schema),
    [queueId, id, incarnation, ...place, limit],
  );
  if (!row) return undefined;
  const next = row.more && row.at !== null && row.id !== null ? { at: row.at, id: row.id } : undefined;
  return { count: row.count, next };
}

/** Deliveries as parameters: arrays as the server writes them, which are put together faster than the driver does it. */
export function namesOf(held: readonly Delivery[]): [ids: string, counts: string] {
  return [
    `{${held.map(({ id }) => id).join(',')}}`,
    `{${held.map(({ readCount }) => readCount ?? 'null').join(',')}}`,
  ];
}

/** Which of the deliveries a statement has changed, by what it says: null, or `id:read_ct` of each. */
export function areIn(changed: readonly string[] | null, held: readonly Delivery[]): boolean[] {
  if (changed === null) return held.map(() => true);
  const counts = new Map(changed.map((one) => one.split(':') as [Id, string]));
  return held.map(({ id, readCount }) => {
    const count = counts.get(id);
    return count !== undefined && (readCount === null || count === String(readCount));
  });
}

async function change(
  text: (schema: string) => string,
  on: Queryable | Session,
  worker: Incarnation,
  held: readonly Delivery[],
  ...more: readonly unknown[]
): Answers {
  const values = [...namesOf(held), worker.id, worker.incarnation, ...more];
  const [row] = await prepared<{ changed: string[] | null }>(on, text(on.schema), values);
  return areIn(row?.changed ?? null, held);
}
