import { takeable } from '../takeable.js';
import { exact } from '../walk.js';
import type { Piece } from './piece.js';
import { routine } from './piece.js';
import { IN_ORDER } from './plans.js';

/**
 * Whether no worker can still be at a message's last delivery. What a foreign client leased without saying until when
 * may run for ever.
 */
const letGo = (s: string) =>
  `(m.consumer_worker_id is null or (m.vt <= now() and ${takeable(s, 'foreign_leases')}))`;

/**
 * Whether the last delivery was one of ours that ended, with its process, before a handler had begun; see
 * sluice-tables.ts. What has become of a foreign client's is not known: it counts.
 */
const neverBegun = (s: string) => `coalesce(m.origin in (2, 3), false) and (m.consumer_worker_id is null
      or exists (select from ${s}.sluice_workers ours where ours.worker_id = m.consumer_worker_id offset 0))`;

export const SWEEP_ROUTINE: Piece =
  // Archives messages of a queue that were delivered as often as allowed, and says why. Those whose last delivery no
  // handler has seen get that one back, as if no consumer of ours had had them: a foreign client's next one counts.
  //
  // Walks along the index of what is due and looks at no more than `wanted` entries. Every condition is asked again of
  // the rows that it locks; by CASE, since an index holds exactly those that are not archived, and is no way to them.
  routine(
    'sluice_sweep',
    'queue bigint, max_reads integer, foreign_leases text, after_vt timestamp with time zone, after_id bigint, ' +
      'wanted integer',
    'returns table(ids text[], returned integer, more boolean, last_at text, last_id text) ' +
      `language plpgsql ${IN_ORDER}`,
    (s) => `
begin
  -- Messages that nobody holds and that have no time are due, and claims do not find them. A trigger gives one to what
  -- comes now: these were there before it, and stand at the end of the index.
  if after_vt is null then
    update ${s}.pgqrs_messages m set vt = least(m.enqueued_at, now()) where m.ctid = any (array(
      select t.ctid from ${s}.pgqrs_messages t
      where t.queue_id = queue and t.archived_at is null and t.vt is null and t.consumer_worker_id is null
      order by t.vt, t.id limit wanted for update of t skip locked));
  end if;
  return query with looked as materialized (
    select m.ctid as at, m.id, m.vt, m.read_ct from ${s}.pgqrs_messages m
    where m.queue_id = queue and m.archived_at is null
      and (m.vt, m.id) > (coalesce(after_vt, '-infinity'), coalesce(after_id, 0))
    order by m.vt, m.id limit wanted),
  picked as materialized (
    select m.ctid as at, ${neverBegun(s)} as never_begun from ${s}.pgqrs_messages m
    where m.ctid = any (array(select l.at from looked l where l.read_ct >= max_reads))
      and case when m.archived_at is null then m.read_ct >= max_reads and ${letGo(s)} end
    for update of m skip locked),
  given_back as (
    update ${s}.pgqrs_messages m set read_ct = max_reads - 1, consumer_worker_id = null, origin = 6
    where m.ctid = any (array(select p.at from picked p where p.never_begun)) returning 1),
  moved as (
    update ${s}.pgqrs_messages m set archived_at = now()
    where m.ctid = any (array(select p.at from picked p where not p.never_begun))
    returning m.id, m.queue_id, m.read_ct),
  explained as (
    insert into ${s}.sluice_failures (message_id, queue_id, reason, last_error, attempts, dead_at)
    select d.id, d.queue_id, 'exhausted', null, d.read_ct, now() from moved d
    on conflict (message_id) do update set queue_id = excluded.queue_id, reason = excluded.reason,
      last_error = excluded.last_error, attempts = excluded.attempts, dead_at = excluded.dead_at)
  select array(select d.id::text from moved d order by d.id), (select count(*) from given_back)::integer,
    (select count(*) from looked) = wanted, ${exact('last.vt')}, last.id::text
  from (select 1) one left join (
    select l.vt, l.id from looked l order by l.vt desc, l.id desc limit 1) last on true;
end`,
  );
