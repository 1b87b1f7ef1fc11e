/** The tables, keys and indexes of pgqrs 0.15.3, as far as messages have to do with them. */
export const pgqrsSchema = (s: string) => `
  create schema ${s};
  create type ${s}.worker_status as enum ('ready', 'polling', 'suspended', 'interrupted', 'stopped');
  create table ${s}.pgqrs_queues (
    id bigserial primary key,
    queue_name varchar not null unique,
    created_at timestamptz not null default now());
  create table ${s}.pgqrs_workers (
    id bigint primary key generated always as identity,
    name text not null unique,
    queue_id bigint references ${s}.pgqrs_queues (id),
    started_at timestamptz default now(),
    heartbeat_at timestamptz default now(),
    shutdown_at timestamptz,
    status ${s}.worker_status not null default 'ready');
  create index on ${s}.pgqrs_workers (queue_id, status);
  create index on ${s}.pgqrs_workers (heartbeat_at);
  create table ${s}.pgqrs_messages (
    id bigserial primary key,
    queue_id bigint not null references ${s}.pgqrs_queues (id),
    payload jsonb not null,
    vt timestamptz default now(),
    enqueued_at timestamptz default now(),
    read_ct int default 0,
    dequeued_at timestamptz,
    archived_at timestamptz,
    producer_worker_id bigint references ${s}.pgqrs_workers (id),
    consumer_worker_id bigint references ${s}.pgqrs_workers (id));
  create index on ${s}.pgqrs_messages (queue_id, vt, enqueued_at, id) where archived_at is null;
  create index on ${s}.pgqrs_messages (consumer_worker_id)
    where archived_at is null and consumer_worker_id is not null;
  create index on ${s}.pgqrs_messages (queue_id, archived_at) where archived_at is not null;
  create index on ${s}.pgqrs_messages (producer_worker_id);
  create table ${s}.pgqrs_workflow_runs (
    id bigserial primary key,
    message_id bigint unique references ${s}.pgqrs_messages (id))`;
