import type { Queryable } from '../db.js';
import type { Id } from '../types.js';
import { statement } from './statement.js';

/**
 * Takes keys for a queue, in the order of the keys, so that two who want the same ones can't deadlock. A key whose time
 * is over may be taken again. It waits for whoever holds one of them in an open transaction.
 * @param windowSeconds for how long, as an expression @param keys where they come from, each once
 */
export const takeKeysFrom = (s: string, windowSeconds: string, keys: string) => `
  insert into ${s}.sluice_dedupe as d (queue_id, key, expires_at)
  select $1::bigint, key, now() + ${windowSeconds} * interval '1 second' from ${keys} order by key collate "C"
  on conflict (queue_id, key) do update set expires_at = excluded.expires_at where d.expires_at <= now()
  returning key`;

const TAKE_KEYS = statement('take_keys', (s) =>
  takeKeysFrom(s, '$2::float8', 'pg_catalog.unnest($3::text[]) as key'),
);

/** One chunk by one process at a time. In the order of the index, so that it is used whatever the statistics say. */
const PURGE_KEYS = statement(
  'purge_keys',
  (s) => `
  with mine as materialized (select pg_try_advisory_xact_lock(hashtextextended('sluice dedupe '::text || $2::text, 0::bigint)) as got),
  gone as (
    delete from ${s}.sluice_dedupe where ctid = any (array(
      select ctid from ${s}.sluice_dedupe where expires_at <= now() and (select got from mine)
      order by expires_at limit $1 for update skip locked))
    returning 1)
  select count(*)::float8 as count from gone`,
);

/** @param keys each at most once @returns those that were free */
export async function takeKeys(
  on: Queryable,
  queueId: Id,
  keys: readonly string[],
  windowSeconds: number,
): Promise<Set<string>> {
  const rows = await on.query<{ key: string }>(TAKE_KEYS(on.schema), [queueId, windowSeconds, keys]);
  return new Set(rows.map(({ key }) => key));
}

/** @returns how many keys went, at most `limit` */
export async function purgeKeys(on: Queryable, limit: number): Promise<number> {
  const [row] = await on.query<{ count: number }>(PURGE_KEYS(on.schema), [limit, on.schema]);
  return row?.count ?? 0;
}
