import type { Queryable } from '../db.js';
import type {
  MessageCounts,
  QueueMetrics,
  SystemStats,
  WorkerCounts,
  WorkerHealthStats,
  WorkerStats,
} from '../metrics.js';
import { activeState } from './message-state.js';
import { statement } from './statement.js';
import { date, seconds } from './time.js';

/**
 * Messages grouped by state, in one scan that reads the archive too: no index would count it exactly. Grouping works a
 * message's state out once, where a filter per state would do so for each. Only for what is archived it asks whether
 * that is a dead letter.
 */
const groupedMessages = (s: string, which: string) => `
  select m.queue_id, case
      when m.archived_at is not null then case when exists (
        select from ${s}.sluice_failures f where f.message_id = m.id and f.dead_at = m.archived_at) then 'buried' else 'archived' end
      else ${activeState(s, '$1')} end as state,
    m.consumer_worker_id is not null as locked, count(*) as count,
    min(coalesce(m.vt, m.enqueued_at)) as due, min(m.enqueued_at) as oldest, max(m.enqueued_at) as newest
  from ${s}.pgqrs_messages m where ${which} group by 1, 2, 3`;

const sumOf = (condition: string) => `coalesce(sum(g.count) filter (where ${condition}), 0)::float8`;

const UNARCHIVED = `g.state not in ('archived', 'buried')`;

const MESSAGE_COUNTS = `
  ${sumOf(`g.state = 'ready'`)} as ready, ${sumOf(`g.state = 'delayed'`)} as delayed,
  ${sumOf(`g.state = 'leased'`)} as leased, ${sumOf(`g.state = 'exhausted'`)} as dead,
  ${sumOf(`g.state = 'archived'`)} as archived, ${sumOf(`g.state = 'buried'`)} as buried,
  ${sumOf(`g.locked and ${UNARCHIVED}`)} as locked`;

/** Seconds, not an interval: the server refuses to subtract an infinite time, which a foreign client may write. */
const ageOf = (time: string) => `${seconds('now()')} - ${seconds(time)}`;

const messageMetrics = (name: string, queues: string, messages: (s: string) => string) =>
  statement(
    name,
    (s) => `
  select q.queue_name as queue, ${MESSAGE_COUNTS},
    exists (select from ${s}.sluice_queues o where o.queue_id = q.id and o.paused_at is not null) as paused,
    ${ageOf(`min(g.due) filter (where g.state = 'ready')`)} as "oldestReadyAge",
    ${seconds(`min(g.oldest) filter (where ${UNARCHIVED} and not g.locked)`)} as "oldestPending",
    ${seconds('max(g.newest)')} as newest
  from ${s}.pgqrs_queues q left join (${groupedMessages(s, messages(s))}) g on g.queue_id = q.id
  where ${queues} group by q.id order by q.queue_name`,
  );

const QUEUE_METRICS = messageMetrics(
  'queue_metrics',
  'q.queue_name::text = $2',
  (s) => `m.queue_id = (select id from ${s}.pgqrs_queues where queue_name::text = $2)`,
);
const ALL_QUEUES_METRICS = messageMetrics('all_queues_metrics', 'true', () => 'true');

/** In one array: in SYSTEM_STATS the statuses would get in the way of the messages' states. */
const WORKER_COUNTS = `array[pg_catalog.count(w.id), ${[
  'ready',
  'polling',
  'suspended',
  'interrupted',
  'stopped',
]
  .map((status) => `pg_catalog.count(w.id) filter (where w.status::text = '${status}')`)
  .join(', ')}]::float8[] as workers`;

const SYSTEM_STATS = statement(
  'system_stats',
  (s) => `
  select messages.*, w.workers, (select count(*)::float8 from ${s}.pgqrs_queues) as queues,
    (select coalesce(max(version), 0)::float8 from ${s}.sluice_migrations) as "schemaVersion"
  from (select ${MESSAGE_COUNTS} from (${groupedMessages(s, 'true')}) g) messages,
    (select ${WORKER_COUNTS} from ${s}.pgqrs_workers w) w`,
);

const STALE = `pg_catalog.count(w.id) filter (where w.status::text in ('ready', 'polling')
    and w.heartbeat_at < now() - $1::float8 * interval '1 second')::float8 as stale`;

const WORKER_HEALTH = statement(
  'worker_health',
  (s) => `select null as queue, ${WORKER_COUNTS}, ${STALE} from ${s}.pgqrs_workers w`,
);
/** As in pgqrs a queue without workers has no row, and workers without a queue have one together. */
const WORKER_HEALTH_BY_QUEUE = statement(
  'worker_health_by_queue',
  (s) => `
  select q.queue_name as queue, ${WORKER_COUNTS}, ${STALE}
  from ${s}.pgqrs_workers w left join ${s}.pgqrs_queues q on q.id = w.queue_id
  group by q.id order by q.queue_name nulls last`,
);

/** A lease counts whatever queue its message is in: a worker may come back to another queue. */
const WORKER_STATS = statement(
  'worker_stats',
  (s) => `
  with queue as (select id from ${s}.pgqrs_queues where queue_name::text = $1),
  w as (select * from ${s}.pgqrs_workers where queue_id = (select id from queue)),
  held as (
    select count(*) as count from ${s}.pgqrs_messages m join w on w.id = m.consumer_worker_id where m.archived_at is null)
  select ${WORKER_COUNTS}, (select count::float8 from held) as held,
    ${ageOf('min(w.started_at)')} as "oldestWorkerAge",
    ${ageOf('max(w.heartbeat_at)')} as "newestHeartbeatAge"
  from queue left join w on true group by queue.id`,
);

interface MessageRow extends MessageCounts {
  /** Dead letters, which are archived; `dead` are the others. */
  buried: number;
  locked: number;
}

interface QueueRow extends MessageRow {
  queue: string;
  paused: boolean;
  oldestReadyAge: number | null;
  oldestPending: number | null;
  newest: number | null;
}

/** @returns nothing when there is no such queue */
export async function selectQueueMetrics(
  on: Queryable,
  queue: string,
  maxReadCount: number,
): Promise<QueueMetrics | undefined> {
  const [row] = await on.query<QueueRow>(QUEUE_METRICS(on.schema), [maxReadCount, queue]);
  return row && queueMetrics(row);
}

/** In the order of their names. */
export async function listQueueMetrics(on: Queryable, maxReadCount: number): Promise<QueueMetrics[]> {
  const rows = await on.query<QueueRow>(ALL_QUEUES_METRICS(on.schema), [maxReadCount]);
  return rows.map(queueMetrics);
}

export async function selectSystemStats(on: Queryable, maxReadCount: number): Promise<SystemStats> {
  const [row] = (await on.query(SYSTEM_STATS(on.schema), [maxReadCount])) as [SystemRow];
  const { queues, schemaVersion } = row;
  const workers = workerCounts(row.workers);
  const { unarchived, pgqrs } = asPgqrs(row);
  return {
    ...messageCounts(row),
    queues,
    workers,
    schemaVersion,
    pgqrs: {
      totalQueues: queues,
      totalWorkers: workers.total,
      activeWorkers: workers.ready,
      totalMessages: unarchived,
      ...pgqrs,
    },
  };
}

interface SystemRow extends MessageRow {
  workers: number[];
  queues: number;
  schemaVersion: number;
}

/** One row for all workers, or one per queue that has some. */
export async function selectWorkerHealth(
  on: Queryable,
  timeoutSeconds: number,
  groupByQueue: boolean,
): Promise<WorkerHealthStats[]> {
  const text = groupByQueue ? WORKER_HEALTH_BY_QUEUE : WORKER_HEALTH;
  const rows = await on.query<{ queue: string | null; workers: number[]; stale: number }>(text(on.schema), [
    timeoutSeconds,
  ]);
  return rows.map(({ queue, workers, stale }) => ({ queue, ...workerCounts(workers), stale }));
}

interface WorkerStatsRow {
  workers: number[];
  held: number;
  oldestWorkerAge: number | null;
  newestHeartbeatAge: number | null;
}

/** @returns nothing when there is no such queue */
export async function selectWorkerStats(on: Queryable, queue: string): Promise<WorkerStats | undefined> {
  const [row] = await on.query<WorkerStatsRow>(WORKER_STATS(on.schema), [queue]);
  if (!row) return undefined;
  const workers = workerCounts(row.workers);
  return {
    ...workers,
    averageMessagesPerWorker: workers.total === 0 ? 0 : row.held / workers.total,
    oldestWorkerAgeSeconds: age(row.oldestWorkerAge),
    newestHeartbeatAgeSeconds: age(row.newestHeartbeatAge),
  };
}

function queueMetrics(row: QueueRow): QueueMetrics {
  const { unarchived, pgqrs } = asPgqrs(row);
  return {
    queue: row.queue,
    paused: row.paused,
    ...messageCounts(row),
    oldestReadyAgeSeconds: age(row.oldestReadyAge),
    pgqrs: {
      totalMessages: unarchived + pgqrs.archivedMessages,
      ...pgqrs,
      oldestPendingMessage: time(row.oldestPending),
      newestMessage: time(row.newest),
    },
  };
}

function messageCounts({ ready, delayed, leased, dead, buried, archived }: MessageRow): MessageCounts {
  return { ready, delayed, leased, dead: dead + buried, archived };
}

/** pgqrs asks only whether a message is archived and whether it has a consumer. */
function asPgqrs({ ready, delayed, leased, dead, buried, archived, locked }: MessageRow) {
  const unarchived = ready + delayed + leased + dead;
  const archivedMessages = archived + buried;
  const pgqrs = { pendingMessages: unarchived - locked, lockedMessages: locked, archivedMessages };
  return { unarchived, pgqrs };
}

function workerCounts(counts: number[]): WorkerCounts {
  const [total, ready, polling, suspended, interrupted, stopped] = counts as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  return { total, ready, polling, suspended, interrupted, stopped };
}

/** Foreign clients write times by their own clocks: what will have happened in the future is no seconds old. */
function age(seconds: number | null): number | null {
  return seconds === null ? null : Math.max(0, seconds);
}

function time(epochSeconds: number | null): Date | null {
  return epochSeconds === null ? null : date(epochSeconds);
}
