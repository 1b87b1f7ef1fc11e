import type { Queryable } from '../db.js';
import type { Queue } from '../types.js';
import { statement } from './statement.js';

const COLUMNS = `id::text, queue_name as name, created_at as "createdAt"`;

const INSERT_QUEUE = statement(
  'insert_queue',
  (s) =>
    `insert into ${s}.pgqrs_queues (queue_name) values ($1) on conflict (queue_name) do nothing returning ${COLUMNS}`,
);
const SELECT_QUEUE = statement(
  'select_queue',
  (s) => `select ${COLUMNS} from ${s}.pgqrs_queues where queue_name = $1`,
);
const LIST_QUEUES = statement(
  'list_queues',
  (s) => `select ${COLUMNS} from ${s}.pgqrs_queues order by created_at desc, id desc`,
);
/** Holds the queue against new workers and batches, both of which take FOR KEY SHARE on it. */
const LOCK_QUEUE = statement(
  'lock_queue',
  (s) => `select id::text from ${s}.pgqrs_queues where queue_name = $1 for update`,
);
const COUNT_QUEUE_USE = statement(
  'count_queue_use',
  (s) => `
  select (select count(*)::int from ${s}.pgqrs_workers where queue_id = $1) as workers,
    (select count(*)::int from ${s}.pgqrs_messages where queue_id = $1) as messages`,
);
const DELETE_QUEUE = statement('delete_queue', (s) => `delete from ${s}.pgqrs_queues where id = $1`);
const PURGE_QUEUE = statement(
  'purge_queue',
  (s) => `
  with gone as (delete from ${s}.pgqrs_messages where queue_id = $1 returning 1) select count(*)::int as count from gone`,
);

/** @returns nothing when the name is taken */
export async function insertQueue(on: Queryable, name: string): Promise<Queue | undefined> {
  const [queue] = await on.query<Queue>(INSERT_QUEUE(on.schema), [name]);
  return queue;
}

export async function selectQueue(on: Queryable, name: string): Promise<Queue | undefined> {
  const [queue] = await on.query<Queue>(SELECT_QUEUE(on.schema), [name]);
  return queue;
}

/** Newest first, as pgqrs lists them. */
export async function listQueues(on: Queryable): Promise<Queue[]> {
  return on.query<Queue>(LIST_QUEUES(on.schema));
}

/** @returns the queue's id, or nothing when there is no such queue */
export async function lockQueue(on: Queryable, name: string): Promise<string | undefined> {
  const [row] = await on.query<{ id: string }>(LOCK_QUEUE(on.schema), [name]);
  return row?.id;
}

export async function countQueueUse(
  on: Queryable,
  id: string,
): Promise<{ workers: number; messages: number }> {
  const [row] = await on.query<{ workers: number; messages: number }>(COUNT_QUEUE_USE(on.schema), [id]);
  return row as { workers: number; messages: number };
}

export async function deleteQueue(on: Queryable, id: string): Promise<void> {
  await on.query(DELETE_QUEUE(on.schema), [id]);
}

/** @returns how many messages went */
export async function purgeQueue(on: Queryable, id: string): Promise<number> {
  const [row] = await on.query<{ count: number }>(PURGE_QUEUE(on.schema), [id]);
  return row?.count ?? 0;
}
