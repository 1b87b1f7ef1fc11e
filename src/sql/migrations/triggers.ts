import type { Catalogue } from './catalogue.js';
import type { Piece } from './piece.js';
import { routine, trigger } from './piece.js';
import { BY_KEY } from './plans.js';

/*
 * References without per-row foreign keys. Three kinds of writers, three guards:
 *  - our batches and claims pin what they refer to (sluice_pin) before they end, so deletes wait for them;
 *  - deletes look once per statement, after they got their locks, whether something still refers to what went;
 *  - foreign clients' inserts and claims are checked row by row, as pgqrs' foreign keys did. `origin` tells them apart:
 *    our inserts set it, our claims change it.
 * Each raises 23503 (foreign_key_violation), which pgqrs' clients expect. The guards see rows that were committed while
 * a delete waited only because every statement of a function has a new snapshot at READ COMMITTED; at a higher level
 * they would not, so such a delete is refused.
 */
const READ_COMMITTED_ONLY = `
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception 'rows of % can only be deleted at READ COMMITTED', tg_table_name using errcode = '0A000';
  end if;`;

/** @param notify whether foreign inserts wake consumers; as it is where that is left open */
export const triggers = (notify?: boolean): readonly Piece[] => [
  routine(
    'sluice_queues_gone',
    '',
    'returns trigger language plpgsql security definer',
    (s) => `
begin${READ_COMMITTED_ONLY}
  -- Active ones have an index; archived ones are looked for in the table.
  if exists (select from gone, lateral (
      select from ${s}.pgqrs_messages m where m.queue_id = gone.id and m.archived_at is null
      order by m.vt, m.id limit 1) active)
    or exists (select from ${s}.pgqrs_messages m join gone on gone.id = m.queue_id) then
    raise exception 'the queue still has messages' using errcode = '23503';
  end if;
  return null;
end`,
  ),
  trigger('sluice_queues_gone', 'pgqrs_queues', 'sluice_queues_gone', afterDelete),

  routine(
    'sluice_workers_gone',
    '',
    'returns trigger language plpgsql security definer',
    (s) => `
begin${READ_COMMITTED_ONLY}
  if exists (select from ${s}.pgqrs_messages m join gone on gone.id = m.producer_worker_id)
    or exists (select from ${s}.pgqrs_messages m join gone on gone.id = m.consumer_worker_id) then
    raise exception 'messages still refer to the worker' using errcode = '23503';
  end if;
  return null;
end`,
  ),
  trigger('sluice_workers_gone', 'pgqrs_workers', 'sluice_workers_gone', afterDelete),

  routine(
    'sluice_messages_gone',
    '',
    `returns trigger language plpgsql security definer ${BY_KEY}`,
    (s) => `
begin
  if exists (select from ${s}.pgqrs_workflow_runs r where r.message_id = any (array(select gone.id from gone))) then
    raise exception 'a workflow run still refers to the message' using errcode = '23503';
  end if;
  delete from ${s}.sluice_failures f
  where f.message_id = any (array(select gone.id from gone where gone.archived_at is not null));
  return null;
end`,
  ),
  trigger('sluice_messages_gone', 'pgqrs_messages', 'sluice_messages_gone', afterDelete),

  // TRUNCATE fires no delete trigger; it holds the table exclusively, so a look afterwards is enough.
  routine(
    'sluice_truncated',
    '',
    'returns trigger language plpgsql security definer',
    (s) => `
begin${READ_COMMITTED_ONLY}
  if tg_table_name = 'pgqrs_messages' and exists (select from ${s}.pgqrs_workflow_runs)
    or tg_table_name <> 'pgqrs_messages' and exists (select from ${s}.pgqrs_messages) then
    raise exception 'rows still refer to %', tg_table_name using errcode = '23503';
  end if;
  if tg_table_name = 'pgqrs_messages' then
    delete from ${s}.sluice_failures;
  end if;
  return null;
end`,
  ),
  trigger('sluice_truncated', 'pgqrs_queues', 'sluice_truncated', afterTruncate),
  trigger('sluice_truncated', 'pgqrs_workers', 'sluice_truncated', afterTruncate),
  trigger('sluice_truncated', 'pgqrs_messages', 'sluice_truncated', afterTruncate),

  checkMessage(notify),
  trigger(
    'sluice_check_insert',
    'pgqrs_messages',
    'sluice_check_message',
    (on) => `after insert ${on} for each row when (new.origin is null)`,
  ),
  trigger(
    'sluice_check_update',
    'pgqrs_messages',
    'sluice_check_message',
    (on) => `after update of queue_id, producer_worker_id, consumer_worker_id ${on} for each row when (
      new.queue_id <> old.queue_id or new.producer_worker_id is distinct from old.producer_worker_id
      or (new.consumer_worker_id is not null and new.consumer_worker_id is distinct from old.consumer_worker_id
        and not new.origin is distinct from old.origin))`,
  ),

  // A message that has no time and is nobody's has been due since it came: the order of delivery has no place for it.
  routine(
    'sluice_give_time',
    '',
    `returns trigger language plpgsql security definer ${BY_KEY}`,
    (s) => `
begin
  update ${s}.pgqrs_messages m set vt = least(m.enqueued_at, now()) where m.id = new.id and m.vt is null;
  return null;
end`,
  ),
  trigger(
    'sluice_give_time',
    'pgqrs_messages',
    'sluice_give_time',
    (on) => `after update of vt, consumer_worker_id, archived_at ${on} for each row when (
      new.vt is null and new.consumer_worker_id is null and new.archived_at is null)`,
  ),

  // Consumers delete messages at whatever isolation their database defaults to, where sluice_messages_gone may not see
  // this run yet. A lock would not stop them; a new version of the message does: their delete waits, and then fails.
  routine(
    'sluice_check_run',
    '',
    `returns trigger language plpgsql security definer ${BY_KEY}`,
    (s) => `
begin
  update ${s}.pgqrs_messages m set origin = origin where m.id = new.message_id;
  if not found then
    raise exception 'message % does not exist', new.message_id using errcode = '23503';
  end if;
  return null;
end`,
  ),
  trigger(
    'sluice_check_run',
    'pgqrs_workflow_runs',
    'sluice_check_run',
    (on) => `after insert or update of message_id ${on} for each row`,
  ),

  // A pinned worker keeps its queue. FOR KEY SHARE does not stop an update of queue_id, since that is no key of anything
  // else; FOR UPDATE waits for the transactions that have pinned the row. Before the update, so that a pin which comes
  // meanwhile waits at this version of the row and then sees the next: at an update without it the pin would pass, and
  // answer with the queue of before.
  routine(
    'sluice_worker_moves',
    '',
    'returns trigger language plpgsql security definer',
    (s) => `
begin
  perform from ${s}.pgqrs_workers w where w.id = new.id for update;
  return new;
end`,
  ),
  trigger(
    'sluice_worker_moves',
    'pgqrs_workers',
    'sluice_worker_moves',
    (on) => `before update of queue_id ${on} for each row when (new.queue_id is distinct from old.queue_id)`,
  ),

  // Nobody changes an id; who did would leave behind what refers to it.
  routine(
    'sluice_id_fixed',
    '',
    'returns trigger language plpgsql security definer',
    () => `
begin
  raise exception 'the id of a row of % cannot change', tg_table_name using errcode = '23503';
end`,
  ),
  trigger('sluice_id_fixed', 'pgqrs_queues', 'sluice_id_fixed', afterIdChange),
  trigger('sluice_id_fixed', 'pgqrs_workers', 'sluice_id_fixed', afterIdChange),
  trigger('sluice_id_fixed', 'pgqrs_messages', 'sluice_id_fixed', afterIdChange),
];

/**
 * Checks what foreign clients write, and gives it a time where it has none. Not before the insert: a BEFORE trigger keeps
 * COPY from inserting many rows at a time, ours as well. Ringing hangs here, where our own inserts never come: PostgreSQL
 * sends one notification for all rows of a queue that a transaction has inserted.
 */
function checkMessage(notify?: boolean): Piece {
  const [silent, ringing] = [checking(''), checking(RING)] as const;
  if (notify !== undefined) return notify ? ringing : silent;
  const asItIs = ({ functions }: Catalogue) =>
    functions['sluice_check_message()']?.body.includes('pg_notify') ? ringing : silent;
  return {
    ...silent,
    differs: (found) => asItIs(found).differs(found),
    mend: (found) => asItIs(found).mend(found),
  };
}

/** On the channel of doorbell.ts. */
const RING = `
    perform pg_notify('sluice_' || left(encode(sha256(convert_to(tg_table_schema, 'UTF8') || '\\x00'::bytea
      || convert_to(new.queue_id::text, 'UTF8')), 'hex'), 32), '');`;

const checking = (ring: string) =>
  routine(
    'sluice_check_message',
    '',
    `returns trigger language plpgsql security definer ${BY_KEY}`,
    (s) => `
begin
  if new.producer_worker_id is not null then
    perform from ${s}.pgqrs_workers w where w.id = new.producer_worker_id for key share;
    if not found then
      raise exception 'worker % does not exist', new.producer_worker_id using errcode = '23503';
    end if;
  end if;
  if new.consumer_worker_id is not null then
    perform from ${s}.pgqrs_workers w where w.id = new.consumer_worker_id for key share;
    if not found then
      raise exception 'worker % does not exist', new.consumer_worker_id using errcode = '23503';
    end if;
  end if;
  perform from ${s}.pgqrs_queues q where q.id = new.queue_id for key share;
  if not found then
    raise exception 'queue % does not exist', new.queue_id using errcode = '23503';
  end if;
  if tg_op = 'INSERT' then
    if new.vt is null and new.consumer_worker_id is null and new.archived_at is null then
      update ${s}.pgqrs_messages m set vt = least(m.enqueued_at, now()) where m.id = new.id and m.vt is null;
    end if;${ring}
  end if;
  return null;
end`,
  );

function afterDelete(on: string): string {
  return `after delete ${on} referencing old table as gone for each statement`;
}

function afterTruncate(on: string): string {
  return `after truncate ${on} for each statement`;
}

function afterIdChange(on: string): string {
  return `after update of id ${on} for each row when (new.id <> old.id)`;
}
