import type { Queryable } from '../db.js';
import type { Id, Queue } from '../types.js';
import { statement } from './statement.js';
import { asStep, FIRST_ID, type Step, type StepRow, type Walk } from './walk.js';

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
/** By indexes alone: archived messages have none, and are left to the trigger on the delete. */
const COUNT_QUEUE_USE = statement(
  'count_queue_use',
  (s) => `
  select (select count(*)::int from ${s}.pgqrs_workers where queue_id = $1) as workers,
    (select count(*)::int from (
      select from ${s}.pgqrs_messages where queue_id = $1 and archived_at is null
      order by vt, id limit $2) found) as messages,
    (select count(*)::int from ${s}.pgqrs_workflows where queue_id = $1) as workflows`,
);
const DELETE_QUEUE = statement(
  'delete_queue',
  (s) => `delete from ${s}.pgqrs_queues where id = $1 returning id`,
);
/**
 * Walks along the primary key, over messages of all queues, up to the last one that there was at the beginning. By id
 * and not by ctid: a message that is claimed at the moment is waited for, and then deleted where it has moved.
 */
const PURGE_QUEUE = statement(
  'purge_queue',
  (s) => `
  with bounds as materialized (
    select coalesce($2::bigint, (select max(id) from ${s}.pgqrs_messages), 0) as until),
  looked as materialized (
    select m.id, m.queue_id from ${s}.pgqrs_messages m
    where m.id > coalesce($1, ${FIRST_ID}) and m.id <= (select until from bounds) order by m.id limit $3),
  meant as materialized (
    select id, exists (select from ${s}.pgqrs_workflow_runs r where r.message_id = looked.id) as kept
    from looked where queue_id = $4),
  gone as (
    delete from ${s}.pgqrs_messages m
    where m.id = any (array(select id from meant where not kept)) and m.queue_id = $4 returning 1)
  select (select count(*) from gone)::float8 as count, (select count(*) from meant where kept)::float8 as kept,
    (select count(*) from looked) = $3 as more, until::text as until, until::text as at,
    (select max(id) from looked)::text as id
  from bounds`,
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
  /** Not archived. */
  messages: number;
  workflows: number;
}

/** @param limit messages to count */
export async function countQueueUse(on: Queryable, id: Id, limit: number): Promise<QueueUse> {
  const [row] = await on.query<QueueUse>(COUNT_QUEUE_USE(on.schema), [id, limit]);
  return row as QueueUse;
}

/** @returns whether there was such a queue; raises 23503 while something refers to it */
export async function deleteQueue(on: Queryable, id: Id): Promise<boolean> {
  return (await on.query(DELETE_QUEUE(on.schema), [id])).length === 1;
}

/** A step of a purge. @param limit messages to look at @returns also how many stay, since workflow runs refer to them */
export async function purgeQueue(
  on: Queryable,
  id: Id,
  { after, until }: Walk,
  limit: number,
): Promise<Step & { kept: number }> {
  const [row] = (await on.query(PURGE_QUEUE(on.schema), [after?.id ?? null, until, limit, id])) as [
    StepRow & { kept: number },
  ];
  return { ...asStep(row), kept: row.kept };
}
