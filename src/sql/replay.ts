import type { Queryable } from '../db.js';
import type { StoredMessage } from '../types.js';
import type { Target } from './scheduled.js';
import { statement } from './statement.js';
import { asStored, storedColumns, type StoredRow } from './stored-rows.js';

/** As pgqrs' replay_dlq: the message begins anew, under its id and its producer. @param which names the messages */
export const replayed = (s: string, which: string) => `
    update ${s}.pgqrs_messages m
    set archived_at = null, read_ct = 0, vt = now(), enqueued_at = now(), consumer_worker_id = null, dequeued_at = null
    where ${which}`;

/** A producer's, of one message of its queue. No row at all means that the producer is fenced. */
const REPLAY = statement(
  'replay_message',
  (s) => `
  with me as materialized (select from ${s}.pgqrs_workers where id = $3 and started_at = $4::timestamptz),
  changed as (${replayed(s, 'm.id = $1 and m.queue_id = $2 and m.archived_at is not null and exists (select from me)')}
    returning m.*),
  forgotten as (delete from ${s}.sluice_failures where message_id = any (array(select id from changed)))
  select ${storedColumns('c')} from me left join changed c on true`,
);

/** @returns the message as it is now, false where no such message is archived, or nothing when the producer is fenced */
export async function replayMessage<T>(
  on: Queryable,
  { messageId, queueId, worker }: Target,
): Promise<StoredMessage<T> | false | undefined> {
  const [row] = await on.query<StoredRow<T> | (Omit<StoredRow<T>, 'id'> & { id: null })>(REPLAY(on.schema), [
    messageId,
    queueId,
    worker.id,
    worker.incarnation,
  ]);
  if (!row) return undefined;
  return row.id !== null && asStored(row);
}
