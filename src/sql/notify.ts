import type { Queryable } from '../db.js';
import { statement } from './statement.js';

const NOTIFY = statement('notify', () => `select pg_notify($1, '')`);

export async function notify(on: Queryable, channel: string): Promise<void> {
  await on.query(NOTIFY(on.schema), [channel]);
}

/** Whether the database answers at all. */
export async function ping(on: Queryable): Promise<void> {
  await on.query('select 1');
}
