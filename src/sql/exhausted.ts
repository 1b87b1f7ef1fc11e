import type { Queryable } from '../db.js';
import type { ForeignLeases, Id } from '../types.js';
import { statement } from './statement.js';
import { takeable } from './takeable.js';
import { exact, type Place } from './walk.js';

/**
 * Whether nobody can still be at a message's last delivery. What a foreign client leased without saying until when may
 * run for ever.
 */
const letGo = (s: string) =>
  `(m.consumer_worker_id is null or (m.vt <= now() and ${takeable(s, '$3::text')}))`;

/**
 * Whether the last delivery was one of ours that ended, with its process, before a handler had begun; see
 * migrations/sluice-tables.ts. What has become of a foreign client's is not known: it counts.
 */
const neverBegun = (s: string) => `(coalesce(m.origin in (2, 3), false) and (m.consumer_worker_id is null
    or exists (select from ${s}.sluice_workers ours where ours.worker_id = m.consumer_worker_id offset 0)))`;

/**
 * Archives messages of a queue that were delivered as often as allowed, and says why. Those whose last delivery no
 * handler has seen get that one back; as messages of nobody's, so that a foreign client's next one counts. Walks along the index of what is
 * due and looks at no more than `$6` entries, and at the beginning also at as many that have no `vt`, which only foreign
 * clients write and which stand at the index' end. Every condition is asked again of the rows that it locks.
 */
const SWEEP_EXHAUSTED = statement(
  'sweep_exhausted',
  (s) => `
  with looked as materialized (
    (select m.ctid as at, m.id, m.vt, m.read_ct from ${s}.pgqrs_messages m
      where m.queue_id = $1 and m.archived_at is null and m.vt is not null
        and ($4::timestamptz is null or (m.vt, m.id) > ($4, $5::bigint))
      order by m.vt, m.id limit $6)
    union all
    (select m.ctid, m.id, m.vt, m.read_ct from ${s}.pgqrs_messages m
      where m.queue_id = $1 and m.archived_at is null and m.vt is null and $4::timestamptz is null
      order by m.vt, m.id limit $6)),
  picked as materialized (
    select m.ctid as at, ${neverBegun(s)} as never_begun from ${s}.pgqrs_messages m
    where m.ctid = any (array(select at from looked where read_ct >= $2))
      and m.archived_at is null and m.read_ct >= $2 and ${letGo(s)}
    for update of m skip locked),
  returned as (
    update ${s}.pgqrs_messages m set read_ct = $2 - 1, consumer_worker_id = null, origin = 1
    where m.ctid = any (array(select at from picked where never_begun)) returning 1),
  moved as (
    update ${s}.pgqrs_messages m set archived_at = now()
    where m.ctid = any (array(select at from picked where not never_begun))
    returning m.id, m.queue_id, m.read_ct),
  explained as (
    insert into ${s}.sluice_failures (message_id, queue_id, reason, last_error, attempts, dead_at)
    select id, queue_id, 'exhausted', null, read_ct, now() from moved
    on conflict (message_id) do update set queue_id = excluded.queue_id, reason = excluded.reason,
      last_error = excluded.last_error, attempts = excluded.attempts, dead_at = excluded.dead_at)
  select array(select id::text from moved order by id) as ids, (select count(*) from returned)::int as returned,
    (select count(*) from looked where vt is not null) = $6 as more, ${exact('l.vt')} as at, l.id::text as id
  from (select 1) one
  left join (select vt, id from looked where vt is not null order by vt desc, id desc limit 1) l on true`,
);

export interface Sweep {
  queueId: Id;
  maxReadCount: number;
  foreignLeases: ForeignLeases;
}

/**
 * One statement of a sweep. Exhausted messages sink to the front of the index, since nobody changes their `vt` any more:
 * whoever sweeps often need not look far.
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
