import type { Queryable } from '../db.js';
import type { Id } from '../types.js';
import { statement } from './statement.js';

/**
 * Messages that a consumer would be given. Never counts further than it must: of a queue that is far too full it looks
 * at the beginning only.
 */
const COUNT_READY = statement(
  'count_ready',
  (s) => `
  select count(*)::float8 as count from (
    select from ${s}.pgqrs_messages m
    where m.queue_id = $1 and m.vt <= now() and m.archived_at is null and m.read_ct < $2
      and (m.consumer_worker_id is null
        or exists (select from ${s}.sluice_workers ours where ours.worker_id = m.consumer_worker_id))
    limit $3) ready`,
);

/**
 * @param maxReadCount messages that were delivered as often are dead: nobody takes them, so nobody may wait for that
 * @returns messages of the queue that are due and in nobody's hands, `limit` at most
 */
export async function countReady(
  on: Queryable,
  queueId: Id,
  maxReadCount: number,
  limit: number,
): Promise<number> {
  const [row] = await on.query<{ count: number }>(COUNT_READY(on.schema), [queueId, maxReadCount, limit]);
  return row?.count ?? 0;
}
