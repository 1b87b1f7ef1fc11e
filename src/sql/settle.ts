import type { Queryable, Session } from '../db.js';
import type { Id } from '../types.js';
import { prepared, statement } from './statement.js';
import type { Incarnation } from './workers.js';

/** One delivery of a message: renewals change `vt`, so only the count tells it from the next one. */
export interface Delivery {
  id: Id;
  /** Null: whichever delivery the worker holds, as pgqrs' calls by id mean it. */
  readCount: number | null;
}

/** Names of a statement's parameters. */
interface Names {
  ids: string;
  counts: string;
  worker: string;
  incarnation: string;
}

const NAMES: Names = { ids: '$1', counts: '$2', worker: '$3', incarnation: '$4' };

const deliveries = ({ ids, counts }: Names) =>
  `unnest(${ids}::bigint[], ${counts}::int[]) as wanted (id, read_ct)`;

/**
 * Whether the worker holds a message as the delivery in `wanted`. A delivery is known exactly, whoever asks; a bare id
 * is not, so there the incarnation counts: what a taken-over worker's successor holds is none of its business.
 *
 * CASE keeps the conditions from the planner. By its statistics hardly any message is leased, let alone by this worker,
 * so it would compare each of them with each one wanted (880 ms for 1,000 of 50,000; by their ids 9 ms).
 */
const held = (s: string, { worker, incarnation }: Names) => `m.id = wanted.id and case
    when m.consumer_worker_id is distinct from ${worker} or m.archived_at is not null then false
    when wanted.read_ct is not null then m.read_ct = wanted.read_ct
    else exists (select from ${s}.pgqrs_workers w where w.id = ${worker} and w.started_at = ${incarnation}::timestamptz) end`;

const RETURNING = 'returning m.id, m.read_ct';

/** How a message that is done is settled: as part of a statement whose parameters have these names. */
export const settling = {
  archive: (s: string, names: Names) => `
  update ${s}.pgqrs_messages m set archived_at = now() from ${deliveries(names)}
  where ${held(s, names)} ${RETURNING}`,
  delete: (s: string, names: Names) => `
  delete from ${s}.pgqrs_messages m using ${deliveries(names)}
  where ${held(s, names)} ${RETURNING}`,
};

export type SettledBy = keyof typeof settling;

/** The deliveries in `changed`, `id:read_ct` each; null, which costs nothing, where it is all that were named. */
export const unlessAll = (changed: string, ids: string) => `
  select case when count(*) < cardinality(${ids}::bigint[]) then coalesce(array_agg(id || ':' || read_ct), '{}') end
  from ${changed}`;

/** What a statement says of the deliveries that it has changed, in one row. */
const report = (changed: string) => `select (${unlessAll(changed, NAMES.ids)}) as changed`;

const changing = (name: string, change: (s: string) => string) =>
  statement(name, (s) => `with changed as (${change(s)}) ${report('changed')}`);

const updating = (name: string, set: string) =>
  changing(
    name,
    (s) =>
      `update ${s}.pgqrs_messages m set ${set} from ${deliveries(NAMES)} where ${held(s, NAMES)} ${RETURNING}`,
  );

const SETTLE = {
  archive: changing('archive_messages', (s) => settling.archive(s, NAMES)),
  delete: changing('delete_messages', (s) => settling.delete(s, NAMES)),
};
/** Adds to what is left of the lease: never shortens it, never extends into the past. */
const EXTEND = updating('extend_messages', `vt = greatest(m.vt, now()) + $5 * interval '1 second'`);
/**
 * Never handed out, so not counted as a delivery. The claim has overwritten the old `vt`; the time of enqueueing puts
 * the message back before those that were behind it.
 */
const GIVE_BACK = updating(
  'give_back_messages',
  `vt = least(now(), m.enqueued_at), read_ct = m.read_ct - 1, consumer_worker_id = null,
    dequeued_at = case when m.read_ct > 1 then m.dequeued_at end`,
);
/** Not done: back into the queue after a while, or, where there is a reason, among the dead letters. */
const RELEASE = statement(
  'release_messages',
  (s) => `
  with wanted as (
    select * from unnest($1::bigint[], $2::int[], $5::float8[], $6::text[], $7::text[])
      as wanted (id, read_ct, delay, reason, last_error)),
  released as (
    update ${s}.pgqrs_messages m set
      vt = case when wanted.reason is null then now() + wanted.delay * interval '1 second' else m.vt end,
      consumer_worker_id = case when wanted.reason is not null then m.consumer_worker_id end,
      archived_at = case when wanted.reason is not null then now() end
    from wanted where ${held(s, NAMES)}
    returning m.id, m.read_ct, m.queue_id, wanted.reason, wanted.last_error),
  dead as (
    insert into ${s}.sluice_failures (message_id, queue_id, reason, last_error, attempts)
    select id, queue_id, reason, last_error, read_ct from released where reason is not null
    on conflict (message_id) do update set queue_id = excluded.queue_id, reason = excluded.reason,
      last_error = excluded.last_error, attempts = excluded.attempts, dead_at = excluded.dead_at)
  ${report('released')}`,
);
/**
 * `now() + $5` for each that is still held. A row that somebody has locked, such as the transaction that settles it, is
 * left alone rather than waited for, which would keep the others waiting too; it is held for all that anybody knows.
 */
const RENEW = statement(
  'renew_leases',
  (s) => `
  with mine as materialized (
    select m.ctid as at, m.id, m.read_ct from ${s}.pgqrs_messages m, ${deliveries(NAMES)} where ${held(s, NAMES)}),
  free as materialized (
    select m.ctid as at from ${s}.pgqrs_messages m, ${deliveries(NAMES)} where ${held(s, NAMES)}
    for no key update of m skip locked),
  renewed as (
    update ${s}.pgqrs_messages m set vt = greatest(m.vt, now() + $5 * interval '1 second')
    where m.ctid = any (array(select at from free)) ${RETURNING})
  select (${unlessAll('mine', NAMES.ids)}) as changed, (${unlessAll('renewed', NAMES.ids)}) as renewed`,
);

/** Whether the worker has archived a message as that delivery. */
const WERE_ARCHIVED = statement(
  'were_archived',
  (s) => `
  with archived as (
    select m.id, m.read_ct from ${s}.pgqrs_messages m, ${deliveries(NAMES)}
    where m.id = wanted.id and m.consumer_worker_id = $3 and m.archived_at is not null
      and m.read_ct = coalesce(wanted.read_ct, m.read_ct) and $4::timestamptz is not null)
  ${report('archived')}`,
);

/** One row with the count, or none when the incarnation is over: its successor's leases are not counted. */
const COUNT_HELD = statement(
  'count_held_messages',
  (s) => `
  select (select count(*) from ${s}.pgqrs_messages m
    where m.queue_id = $1 and m.consumer_worker_id = w.id and m.archived_at is null)::int as count
  from ${s}.pgqrs_workers w where w.id = $2 and w.started_at = $3::timestamptz`,
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

/** Each answers for each delivery, in input order, whether the worker held it. */
type Answers = Promise<boolean[]>;

export function settleMessages(
  on: Queryable | Session,
  worker: Incarnation,
  { by, held }: Settlement,
): Answers {
  return change(SETTLE[by], on, worker, held);
}

/** Of deliveries that are not held any more: whether it is because the worker has archived them. */
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
  const [row] = await on.query<{ changed: string[] | null; renewed: string[] | null }>(RENEW(on.schema), [
    ...namesOf(deliveries),
    ...[worker.id, worker.incarnation, lockSeconds],
  ]);
  const held = areIn(row?.changed ?? null, deliveries);
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

/** @returns how many messages of the queue the worker has not settled, expired ones too; nothing when it is fenced */
export async function countHeldMessages(
  on: Queryable,
  queueId: Id,
  { id, incarnation }: Incarnation,
): Promise<number | undefined> {
  const [row] = await on.query<{ count: number }>(COUNT_HELD(on.schema), [queueId, id, incarnation]);
  return row?.count;
}

/** Deliveries as parameters: arrays as the server writes them, which are put together faster than the driver does it. */
export function namesOf(held: readonly Delivery[]): [ids: string, counts: string] {
  return [
    `{${held.map(({ id }) => id).join(',')}}`,
    `{${held.map(({ readCount }) => readCount ?? 'null').join(',')}}`,
  ];
}

/** Which of the deliveries a statement has changed, by what it says; see `unlessAll`. */
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
