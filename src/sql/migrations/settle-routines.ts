import type { Piece } from './piece.js';
import { routine } from './piece.js';
import { BY_KEY } from './plans.js';

/*
 * What is done with deliveries that a worker holds. Each of these routines takes them as two arrays, the ids and the
 * counts of delivery (null: whichever delivery the worker holds), with the worker and its incarnation; and answers
 * `id:read_ct` of those that it has changed, or null, which costs nothing, where it is all that were named.
 */

const DELIVERIES = 'unnest(ids, counts) as wanted (id, read_ct)';

/**
 * The message that is `wanted`. Not as `m.id = wanted.id`, by which PostgreSQL could as well walk through all messages
 * and look for each among those wanted: it would, after it has seen the table with next to nothing in it.
 */
const IS_WANTED = 'm.id = any (array[wanted.id])';

/**
 * Whether the worker holds a message as the delivery in `wanted`. A delivery is known exactly, whoever asks; a bare id
 * is not, so there the incarnation counts: what a taken-over worker's successor holds is none of its business.
 *
 * CASE keeps the conditions from the planner, which must find messages by their ids and not by what else they have in
 * common.
 */
const held = (s: string) => `${IS_WANTED} and case
    when m.consumer_worker_id is distinct from worker or m.archived_at is not null then false
    when wanted.read_ct is not null then m.read_ct = wanted.read_ct
    else exists (select from ${s}.pgqrs_workers w where w.id = worker and w.started_at = incarnation) end`;

/** For `origin`, see sluice-tables.ts. */
const BEGUN = 'case m.origin when 4 then 5 else 4 end';

const RETURNING = 'returning m.id, m.read_ct';

/** What an answer says of the deliveries in `changed`. */
const unlessAll = (changed: string, into = '') => `
    select case when count(*) < cardinality(ids) then coalesce(array_agg(id || ':' || read_ct), '{}') end
    ${into} from ${changed}`;

/**
 * Writes to the log, so that the COMMIT waits, as that of a change does, until it is safe on the standbys that the server
 * waits for. Who reads that a message is not held any more may have seen what is committed here and nowhere else yet, and
 * what a fail-over would undo. An answer that comes with such a write is as good as its COMMIT.
 */
const MAKE_SAFE = `perform pg_logical_emit_message(true, 'sluice', ''::text);`;

const NAMED = 'ids bigint[], counts integer[], worker bigint, incarnation timestamp with time zone';

/** @param more parameters beside those that all have @param ctes the first one, `changed`, and what depends on it */
const change = (name: string, more: string, ctes: (s: string) => string): Piece =>
  routine(
    name,
    `${NAMED}${more}`,
    `returns text[] language plpgsql ${BY_KEY}`,
    (s) => `
declare
  answer text[];
begin
  with ${ctes(s)}${unlessAll('changed', 'into answer')};
  if answer is not null then
    ${MAKE_SAFE}
  end if;
  return answer;
end`,
  );

const update = (name: string, more: string, set: string, returning = RETURNING): Piece =>
  change(
    name,
    more,
    (s) => `changed as (
    update ${s}.pgqrs_messages m set ${set}
    from ${DELIVERIES} where ${held(s)} ${returning})`,
  );

export const SETTLE_ROUTINES: readonly Piece[] = [
  update('sluice_archive', '', 'archived_at = now()'),

  change(
    'sluice_delete',
    '',
    (s) => `changed as (
    delete from ${s}.pgqrs_messages m using ${DELIVERIES}
    where ${held(s)} ${RETURNING})`,
  ),

  // Not done: back into the queue after a while, or, where there is a reason, among the dead letters. Who says so has
  // seen it: the delivery counts.
  change(
    'sluice_release',
    ', delays double precision[], reasons text[], last_errors text[]',
    (s) => `released as (
    update ${s}.pgqrs_messages m set
      vt = case when wanted.reason is null then now() + wanted.delay * interval '1 second' else m.vt end,
      consumer_worker_id = case when wanted.reason is not null then m.consumer_worker_id end,
      archived_at = case when wanted.reason is not null then now() end,
      origin = ${BEGUN}
    from unnest(ids, counts, delays, reasons, last_errors) as wanted (id, read_ct, delay, reason, last_error)
    where ${held(s)} ${RETURNING}, m.queue_id, wanted.reason, wanted.last_error),
  dead as (
    insert into ${s}.sluice_failures (message_id, queue_id, reason, last_error, attempts)
    select id, queue_id, reason, last_error, read_ct from released where reason is not null
    on conflict (message_id) do update set queue_id = excluded.queue_id, reason = excluded.reason,
      last_error = excluded.last_error, attempts = excluded.attempts, dead_at = excluded.dead_at),
  changed as (select id, read_ct from released)`,
  ),

  // Never handed out, so not counted as a delivery. The claim has overwritten the old `vt`; the time of enqueueing puts
  // the message back before those that were behind it.
  update(
    'sluice_give_back',
    '',
    `vt = least(now(), m.enqueued_at), read_ct = m.read_ct - 1, consumer_worker_id = null,
      dequeued_at = case when m.read_ct > 1 then m.dequeued_at end`,
    // As the delivery that it was.
    'returning m.id, m.read_ct + 1 as read_ct',
  ),

  // Adds to what is left of the lease: never shortens it, never extends into the past.
  update(
    'sluice_extend',
    ', seconds double precision',
    `vt = greatest(m.vt, now()) + seconds * interval '1 second'`,
  ),

  // A handler is about to begin: from now on the delivery counts, even if its process does not live to tell.
  update('sluice_mark_begun', '', `origin = ${BEGUN}`),

  // A lease that ends at `now() + seconds` for each that is still held. A row that somebody has locked, such as the
  // transaction that settles it, is left alone rather than waited for, which would keep the others waiting too; it is
  // held for all that anybody knows.
  routine(
    'sluice_renew',
    `${NAMED}, seconds double precision`,
    `returns table(held text[], renewed text[]) language plpgsql ${BY_KEY}`,
    (s) => `
begin
  return query with mine as materialized (
    select m.id, m.read_ct from ${s}.pgqrs_messages m, ${DELIVERIES} where ${held(s)}),
  free as materialized (
    select m.ctid as at from ${s}.pgqrs_messages m, ${DELIVERIES} where ${held(s)}
    for no key update of m skip locked),
  renewal as (
    update ${s}.pgqrs_messages m set vt = greatest(m.vt, now() + seconds * interval '1 second')
    where m.ctid = any (array(select at from free)) ${RETURNING})
  select (${unlessAll('mine')}), (${unlessAll('renewal')});
end`,
  ),

  // Whether the worker has archived a message as that delivery, and it was done: who buries it says so in
  // sluice_failures. Always an answer that is safe, since it decides whether work is reported as done.
  routine(
    'sluice_were_archived',
    NAMED,
    `returns text[] language plpgsql ${BY_KEY}`,
    (s) => `
begin
  ${MAKE_SAFE}
  return (
    with archived as (
      select m.id, m.read_ct from ${s}.pgqrs_messages m, ${DELIVERIES}
      where ${IS_WANTED} and case
        when m.consumer_worker_id is distinct from worker or m.archived_at is null or incarnation is null then false
        when m.read_ct <> wanted.read_ct then false
        else not exists (select from ${s}.sluice_failures f
          where f.message_id = m.id and f.dead_at = m.archived_at offset 0) end)${unlessAll('archived')});
end`,
  ),
];
