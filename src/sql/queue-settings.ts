import type { Queryable } from '../db.js';
import type { Id, QueueSettings } from '../types.js';
import { statement } from './statement.js';
import { date, seconds } from './time.js';

/** No row in sluice_queues means that nothing is set. The key-share lock keeps the queue until the row refers to it. */
const set = (name: string, columns: string, values: string, update: string) =>
  statement(
    name,
    (s) => `
  insert into ${s}.sluice_queues as q (queue_id, ${columns})
  select id, ${values} from ${s}.pgqrs_queues where queue_name::text = $1 for key share
  on conflict (queue_id) do update set ${update}
  returning queue_id::text as id`,
  );

/** A queue that is paused already has been so since then. */
const PAUSE = set('pause_queue', 'paused_at', 'now()', 'paused_at = coalesce(q.paused_at, now())');
const RESUME = set('resume_queue', 'paused_at', 'null', 'paused_at = null');
const SET_RETENTION = set(
  'set_retention',
  'archive_seconds, dead_letter_seconds',
  '$3::float8, $5::float8',
  `archive_seconds = case when $2::boolean then excluded.archive_seconds else q.archive_seconds end,
    dead_letter_seconds = case when $4::boolean then excluded.dead_letter_seconds else q.dead_letter_seconds end`,
);
const SELECT_SETTINGS = statement(
  'select_queue_settings',
  (s) => `
  select ${seconds('o.paused_at')} as "pausedAt", o.archive_seconds as "archiveSeconds",
    o.dead_letter_seconds as "deadLetterSeconds"
  from ${s}.pgqrs_queues q left join ${s}.sluice_queues o on o.queue_id = q.id where q.queue_name::text = $1`,
);
const LIST_RETENTION = statement(
  'list_retention',
  (s) => `
  select queue_id::text as "queueId", archive_seconds as "archiveSeconds", dead_letter_seconds as "deadLetterSeconds"
  from ${s}.sluice_queues where archive_seconds is not null or dead_letter_seconds is not null order by queue_id`,
);

/** Each answers with the queue's id, or nothing when there is no such queue. */
export function pauseQueue(on: Queryable, queue: string): Promise<Id | undefined> {
  return change(PAUSE, on, queue);
}

export function resumeQueue(on: Queryable, queue: string): Promise<Id | undefined> {
  return change(RESUME, on, queue);
}

/** In seconds. Undefined leaves a setting as it is, null takes it away. */
export interface Retention {
  archiveSeconds?: number | null | undefined;
  deadLetterSeconds?: number | null | undefined;
}

export function setRetention(
  on: Queryable,
  queue: string,
  { archiveSeconds, deadLetterSeconds }: Retention,
): Promise<Id | undefined> {
  const given = (value: number | null | undefined) => [value !== undefined, value ?? null];
  return change(SET_RETENTION, on, queue, ...given(archiveSeconds), ...given(deadLetterSeconds));
}

/** @returns nothing when there is no such queue */
export async function selectSettings(on: Queryable, queue: string): Promise<QueueSettings | undefined> {
  const [row] = await on.query<Omit<QueueSettings, 'pausedAt'> & { pausedAt: number | null }>(
    SELECT_SETTINGS(on.schema),
    [queue],
  );
  return row && { ...row, pausedAt: row.pausedAt === null ? null : date(row.pausedAt) };
}

/** Queues that do not keep everything. */
export async function listRetention(
  on: Queryable,
): Promise<{ queueId: Id; archiveSeconds: number | null; deadLetterSeconds: number | null }[]> {
  return on.query(LIST_RETENTION(on.schema));
}

async function change(
  text: (schema: string) => string,
  on: Queryable,
  queue: string,
  ...values: readonly unknown[]
): Promise<Id | undefined> {
  const [row] = await on.query<{ id: Id }>(text(on.schema), [queue, ...values]);
  return row?.id;
}
