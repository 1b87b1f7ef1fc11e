import type { Queryable } from '../db.js';
import { statement } from './statement.js';

/**
 * Without waiting for the disk: a wake-up is only a hint, and the lock that a commit with NOTIFY holds would otherwise
 * last through the flush.
 */
const NOTIFY = statement(
  'notify',
  () => `select set_config('synchronous_commit', 'off', true), pg_notify($1, '')`,
);

export async function notify(on: Queryable, channel: string): Promise<void> {
  await on.query(NOTIFY(on.schema), [channel]);
}

/** Whether the database answers at all. */
export async function ping(on: Queryable): Promise<void> {
  await on.query('select 1');
}
