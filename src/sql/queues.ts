import type { Queryable } from '../db.js';
import type { Id, Queue } from '../types.js';
import { statement } from './statement.js';

const COLUMNS = `id::text, queue_name as name, created_at as "createdAt"`;

const INSERT_QUEUE = statement(
  'insert_queue',
  (s) =>
    `insert into ${s}.pgqrs_queues (queue_name) values ($1) on conflict (queue_name) do nothing returning ${COLUMNS}`,
);
const SELECT_QUEUE = statement(
  'select_queue',
  (s) => `select ${COLUMNS} from ${s}.pgqrs_queues where queue_name::text = $1`,
);
const LIST_QUEUES = statement(
  'list_queues',
  (s) => `select ${COLUMNS} from ${s}.pgqrs_queues order by created_at desc, id desc`,
);
const COUNT_QUEUE_USE = statement(
  'count_queue_use',
  (s) => `
  select (select count(*)::int from ${s}.pgqrs_workers where queue_id = $1) as workers,
    (select count(*)::float8 from ${s}.pgqrs_messages where queue_id = $1) as messages,
    (select count(*)::int from ${s}.pgqrs_workflows where queue_id = $1) as workflows`,
);
const DELETE_QUEUE = statement(
  'delete_queue',
  (s) => `delete from ${s}.pgqrs_queues where id = $1 returning id`,
);
const PURGE_QUEUE = statement(
  'purge_queue',
  (s) => `
  with gone as (delete from ${s}.pgqrs_messages where queue_id = $1 returning 1) select count(*)::float8 as count from gone`,
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

/** What stands against deleting a queue: how many of each refer to it. */
export interface QueueUse {
  workers: number;
  messages: number;
  workflows: number;
}

export async function countQueueUse(on: Queryable, id: Id): Promise<QueueUse> {
  const [row] = await on.query<QueueUse>(COUNT_QUEUE_USE(on.schema), [id]);
  return row as QueueUse;
}

/** @returns whether there was such a queue; raises 23503 while something refers to it */
export async function deleteQueue(on: Queryable, id: Id): Promise<boolean> {
  return (await on.query(DELETE_QUEUE(on.schema), [id])).length === 1;
}

/** @returns how many messages went */
export async function purgeQueue(on: Queryable, id: Id): Promise<number> {
  const [row] = await on.query<{ count: number }>(PURGE_QUEUE(on.schema), [id]);
  return row?.count ?? 0;
}
