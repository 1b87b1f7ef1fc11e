import type { Queryable } from '../db.js';
import type { ActiveMessage, ActiveState, Id } from '../types.js';
import { activeState } from './message-state.js';
import { statement } from './statement.js';
import { asStored, storedColumns, type StoredRow } from './stored-rows.js';
import { exact, FIRST_ID } from './walk.js';

/** A place in the order of delivery. Messages without a time, which only foreign clients leave, stand at its end. */
export interface DuePlace {
  /** As the server wrote it. */
  at: string | null;
  id: Id;
}

/** Which messages that are not archived are meant. */
export interface ActiveMeant {
  queueId: Id;
  /** Null for all of them. */
  state: ActiveState | null;
  maxReadCount: number;
}

/**
 * Goes along the index of what is due, from behind ($4, $5), and looks at no more than `$6` entries, of which it brings
 * the first `$7` that are meant. Neither half of the index has what is certainly not: delayed messages stand behind
 * now(), and ready ones before it.
 */
const LIST = statement(
  'list_active_messages',
  (s) => `
  with looked as materialized (
    (select m.ctid as at, m.id, m.vt, ${activeState(s, '$3')} as state from ${s}.pgqrs_messages m
      where m.queue_id = $1 and m.archived_at is null and ($4::timestamptz is not null or $5::bigint is null)
        and (m.vt, m.id) > (coalesce($4, case when $2::text = 'delayed' then now() else '-infinity'::timestamptz end),
          coalesce($5, ${FIRST_ID}))
        and m.vt <= case when $2 = 'ready' then now() else 'infinity'::timestamptz end
      order by m.vt, m.id limit $6)
    union all
    (select m.ctid, m.id, m.vt, ${activeState(s, '$3')} from ${s}.pgqrs_messages m
      where m.queue_id = $1 and m.archived_at is null and m.vt is null
        and m.id > case when $4 is null then coalesce($5, ${FIRST_ID}) else ${FIRST_ID} end
      order by m.id limit $6)
    order by vt, id limit $6),
  found as materialized (
    select at, state from looked where $2 is null or state = $2 order by vt, id limit $7),
  last as (select vt, id from looked order by vt desc nulls first, id desc limit 1)
  select f.*, ${exact('last.vt')} as "lastAt", last.id::text as "lastId", (select count(*) from looked) = $6 as more
  from last left join (
    select ${storedColumns('m')}, found.state, ${exact('m.vt')} as place, m.vt as due, m.id as number
    from ${s}.pgqrs_messages m join found on found.at = m.ctid
    where m.ctid = any (array(select at from found))) f on true
  order by f.due, f.number`,
);

const COUNT = statement(
  'count_active_messages',
  (s) => `
  select count(*)::float8 as count from ${s}.pgqrs_messages m
  where m.queue_id = $1 and m.archived_at is null and ($2::text is null or ${activeState(s, '$3::int4')} = $2)`,
);

interface LookedRow {
  lastAt: string | null;
  lastId: Id;
  /** Whether it looked at as many entries as it was allowed to. */
  more: boolean;
}

interface FoundRow<T> extends StoredRow<T> {
  state: ActiveState;
  place: string | null;
}

/**
 * @param after behind that place only @param limit of messages @param entries to look at
 * @returns in the order of delivery, each with its place, and the last place that it looked at if there may be more
 */
export async function listActive<T>(
  on: Queryable,
  { queueId, state, maxReadCount }: ActiveMeant,
  after: DuePlace | null,
  limit: number,
  entries: number,
): Promise<{ found: { message: ActiveMessage<T>; place: DuePlace }[]; last: DuePlace | undefined }> {
  const values = [queueId, state, maxReadCount, after?.at ?? null, after?.id ?? null, entries, limit];
  const rows = await on.query<LookedRow & (FoundRow<T> | { id: null })>(LIST(on.schema), values);
  const found = rows.filter((row): row is LookedRow & FoundRow<T> => row.id !== null);
  const [looked] = rows;
  return {
    found: found.map((row) => ({
      message: { ...asStored(row), state: row.state },
      place: { at: row.place, id: row.id },
    })),
    last: looked?.more ? { at: looked.lastAt, id: looked.lastId } : undefined,
  };
}

export async function countActive(
  on: Queryable,
  { queueId, state, maxReadCount }: ActiveMeant,
): Promise<number> {
  const [row] = await on.query<{ count: number }>(COUNT(on.schema), [queueId, state, maxReadCount]);
  return row?.count ?? 0;
}
