import { takeable, unleasedOrOurs, unpaused } from '../takeable.js';
import type { Piece } from './piece.js';
import { routine } from './piece.js';
import { IN_ORDER } from './plans.js';

/** What a claim writes into `origin`, always something new; see sluice-tables.ts. */
const HANDED_OUT = `case m.origin when 2 then 3 else 2 end`;

/** Its last lease ran out: for all that is known it ends the processes that handle it. A failure, a release, and what is
 * given back in order leave no consumer behind. */
const SUSPECT = `(m.consumer_worker_id is not null or coalesce(m.origin = 6, false))`;

/** Seconds since 1970 as a float8; see ../time.ts. */
const seconds = (time: string) => `date_part('epoch', ${time})`;

export const CLAIM_ROUTINES: readonly Piece[] = [
  // The parameters are those of `Claim` in ../claim.ts. First what is settled along with it, in a statement of its own:
  // the pick sees it as settled, or it would bring again what is settled here if its lease has just expired. A settlement
  // that the server refuses is undone alone. FOR KEY SHARE pins the claiming worker in its incarnation: where it is not,
  // the worker is fenced.
  //
  // The pick is a loop, which looks at a payload's size (as text: what the client receives) only until there is enough;
  // FOR UPDATE has locked what it brings, so that the rows are where they were when they are updated, by their places.
  // Changing `origin` tells the trigger on foreign claims that this one has checked already.
  //
  // One row for each message, in the order of their being due, and at last one with `head`: about all of them.
  routine(
    'sluice_claim',
    'queue bigint, wanted integer, max_bytes bigint, max_reads integer, foreign_leases text, worker bigint, ' +
      'incarnation timestamp with time zone, lease_seconds double precision, floor_micros bigint, floor_id bigint, ' +
      'suspect_from integer, suspects_most integer, ' +
      'settle_by text, settle_ids bigint[], settle_counts integer[]',
    'returns table(message text, body text, reads integer, suspect boolean, producer text, ' +
      `enqueued double precision, dequeued double precision, head text) language plpgsql ${IN_ORDER}`,
    (s) => `
declare
  one record;
  size integer;
  settled text[];
  refused boolean := false;
  fenced boolean;
  places tid[] := '{}';
  bytes bigint := 0;
  suspects integer := 0;
  more boolean := false;
  last_vt timestamp with time zone;
  last_id bigint;
begin
  if settle_ids is not null then
    begin
      if settle_by = 'delete' then
        settled := ${s}.sluice_delete(settle_ids, settle_counts, worker, incarnation);
      else
        settled := ${s}.sluice_archive(settle_ids, settle_counts, worker, incarnation);
      end if;
    exception when others then
      refused := true;
    end;
  end if;

  perform from ${s}.pgqrs_workers w where w.id = worker and w.started_at = incarnation for key share;
  fenced := not found;
  if not fenced and ${unpaused(s, 'queue')} then
    for one in
      select m.ctid as at, m.id, m.payload, m.vt, m.read_ct, m.producer_worker_id, m.enqueued_at, m.dequeued_at,
        ${SUSPECT} as suspect
      from ${s}.pgqrs_messages m
      where m.queue_id = queue and m.vt <= now()
        and (m.vt, m.id) > (
          coalesce(timestamptz 'epoch' + floor_micros * interval '1 microsecond', '-infinity'), coalesce(floor_id, 0))
        and m.archived_at is null and m.read_ct < max_reads and ${takeable(s, 'foreign_leases')}
      order by m.vt, m.id limit wanted for update of m skip locked
    loop
      if one.suspect and one.read_ct >= least(suspect_from, max_reads - 1) then
        if suspects >= suspects_most then
          more := true;
          continue;
        end if;
        suspects := suspects + 1;
      end if;
      body := one.payload::text;
      size := octet_length(body);
      if bytes > 0 and bytes + size > max_bytes then
        more := true;
        exit;
      end if;
      bytes := bytes + size;
      places := places || one.at;
      if not more then
        last_vt := one.vt;
        last_id := one.id;
      end if;
      message := one.id::text;
      reads := one.read_ct + 1;
      suspect := one.suspect;
      producer := one.producer_worker_id::text;
      enqueued := ${seconds('one.enqueued_at')};
      dequeued := ${seconds('coalesce(one.dequeued_at, now())')};
      return next;
    end loop;
    update ${s}.pgqrs_messages m
    set vt = now() + lease_seconds * interval '1 second', read_ct = m.read_ct + 1, consumer_worker_id = worker,
      dequeued_at = coalesce(m.dequeued_at, now()), origin = ${HANDED_OUT}
    where m.ctid = any (places);
  end if;

  message := null;
  body := null;
  suspect := null;
  head := json_build_object(
    'fenced', fenced,
    'leasedUntil', ${seconds("now() + lease_seconds * interval '1 second'")},
    'bytes', bytes,
    'more', more,
    'last', case when isfinite(last_vt) then json_build_object(
      'dueMicros', round(${seconds('last_vt')} * 1000000)::bigint, 'id', last_id::text) end,
    'settled', to_json(settled),
    'refused', refused)::text;
  return next;
end`,
  ),

  // In ms from now: a delay that ends, or a lease that expires; 0 for what is due; null where nothing is waiting.
  routine(
    'sluice_next_due',
    'queue bigint, max_reads integer, foreign_leases text, floor_micros bigint, floor_id bigint',
    `returns double precision language plpgsql ${IN_ORDER}`,
    (s) => `
begin
  return (
    select greatest(0, ${seconds('m.vt')} - ${seconds('now()')}) * 1000 from ${s}.pgqrs_messages m
    where m.queue_id = queue and m.vt is not null
      and (m.vt, m.id) > (
        coalesce(timestamptz 'epoch' + floor_micros * interval '1 microsecond', '-infinity'), coalesce(floor_id, 0))
      and m.archived_at is null and m.read_ct < max_reads
      and (${unleasedOrOurs(s)} or foreign_leases = 'expired') and ${unpaused(s, 'queue')}
    order by m.vt, m.id limit 1);
end`,
  ),
];
