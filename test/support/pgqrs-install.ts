import { crc32 } from 'node:zlib';
import pg from 'pg';
import { onTestFinished } from 'vitest';
import type { FreshSchema } from './database.js';

/** What pgqrs' migrations make, one by one, and the checksum by which sqlx knows each. */
const MIGRATIONS: readonly (readonly [version: number, checksum: string, sql: string])[] = [
  [
    1,
    'd2c9fdceef8a50d25d477ad3591c44d22523e3796c5d89f2185cdbbad5b744b50f4d33835e8282787566b2e72a92ed30',
    `do $$ begin
       create type worker_status as enum ('ready', 'polling', 'suspended', 'interrupted', 'stopped');
     exception when duplicate_object then null; end $$`,
  ],
  [
    2,
    '0e249be0fa88e93f2389598a7846b14d2222e920125411f9c5b2a45ee7e4e502d0f66cec66ebf072519e63b9633c3839',
    `create table pgqrs_queues (id bigserial primary key, queue_name varchar unique not null,
       created_at timestamptz default now() not null)`,
  ],
  [
    3,
    '4a8661ec5994583653419ede0358f6ebdd1afc7007badc2df474cb61453a0c06c95c787770cf74902ae350991cc5eb59',
    `create table if not exists pgqrs_workers (id bigint primary key generated always as identity, name text not null,
       queue_id bigint, started_at timestamptz default now(), heartbeat_at timestamptz default now(),
       shutdown_at timestamptz, status worker_status not null default 'ready', unique (name),
       constraint fk_workers_queue_id foreign key (queue_id) references pgqrs_queues (id));
     create index idx_pgqrs_workers_queue_status on pgqrs_workers (queue_id, status);
     create index idx_pgqrs_workers_heartbeat on pgqrs_workers (heartbeat_at)`,
  ],
  [
    4,
    'a6fb1fcb94e74fffd5d4a4a8167e6a79c494a169659fa29fb3d5a4ccdef5905b7387372875471eb7d9b6c23b19687fed',
    `create table pgqrs_messages (id bigserial primary key, queue_id bigint not null, payload jsonb not null,
       vt timestamptz default now(), enqueued_at timestamptz default now(), read_ct int default 0,
       dequeued_at timestamptz, producer_worker_id bigint, consumer_worker_id bigint, archived_at timestamptz,
       constraint fk_messages_queue_id foreign key (queue_id) references pgqrs_queues (id),
       constraint fk_messages_producer_worker_id foreign key (producer_worker_id) references pgqrs_workers (id),
       constraint fk_messages_consumer_worker_id foreign key (consumer_worker_id) references pgqrs_workers (id));
     create index idx_pgqrs_messages_hot_path on pgqrs_messages (queue_id, vt, enqueued_at, id) where archived_at is null;
     create index idx_pgqrs_messages_consumer_worker_id_active on pgqrs_messages (consumer_worker_id)
       where archived_at is null and consumer_worker_id is not null;
     create index idx_pgqrs_messages_archived_at on pgqrs_messages (queue_id, archived_at) where archived_at is not null;
     create index idx_pgqrs_messages_producer_worker_id on pgqrs_messages (producer_worker_id)`,
  ],
];

const WORKFLOWS = (labels: string) => `
  do $$ begin create type pgqrs_workflow_status as enum (${labels});
  exception when duplicate_object then null; end $$;
  create table if not exists pgqrs_workflows (id bigserial primary key, name varchar(255) not null unique,
    queue_id bigint not null references pgqrs_queues (id), created_at timestamptz not null default now());
  create table if not exists pgqrs_workflow_runs (id bigserial primary key,
    workflow_id bigint not null references pgqrs_workflows (id) on delete cascade,
    message_id bigint not null unique references pgqrs_messages (id), status pgqrs_workflow_status not null,
    input jsonb, output jsonb, error jsonb, created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(), started_at timestamptz, paused_at timestamptz,
    completed_at timestamptz, worker_id bigint references pgqrs_workers (id));
  create table if not exists pgqrs_workflow_steps (id bigserial primary key,
    run_id bigint not null references pgqrs_workflow_runs (id) on delete cascade, step_name varchar(255) not null,
    status pgqrs_workflow_status not null, input jsonb, output jsonb, error jsonb,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
    started_at timestamptz, completed_at timestamptz, retry_count int not null default 0, retry_at timestamptz,
    last_retry_at timestamptz, unique (run_id, step_name));
  create index if not exists idx_pgqrs_workflows_name on pgqrs_workflows (name);
  create index if not exists idx_pgqrs_workflow_runs_message_id on pgqrs_workflow_runs (message_id);
  create index if not exists idx_pgqrs_workflow_runs_status on pgqrs_workflow_runs (status)`;

const LABELS = `'QUEUED', 'RUNNING', 'SUCCESS', 'ERROR', 'PAUSED'`;
/** Migration 6, which was edited after 0.15.3. */
const SIXTH = {
  '0.15.3': [
    '6df4919f0208ce174be4aef9e8752615426a1346b1f641a4de5389254b68d92da14a27c58e61aa81207d7263c61b9723',
    WORKFLOWS(LABELS),
  ],
  main: [
    'da7689e4422499597ca8397871fe99892fe7b8b6747ae4a264cdb347afe49f71f5d6750db4f5b02b000888a1669adaf6',
    WORKFLOWS(`${LABELS}, 'CANCELLING', 'CANCELLED'`),
  ],
} as const;

/** A session of pgqrs' in a schema that is there. */
export async function pgqrsSession({ url, schema }: Pick<FreshSchema, 'url' | 'schema'>): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  onTestFinished(() => client.end());
  await client.query(`set search_path = "${schema}"`);
  return client;
}

/** Takes, and gives back, the lock of sqlx' migrator. */
export async function sqlxLock(client: pg.Client, call: 'lock' | 'unlock'): Promise<void> {
  const { rows } = await client.query<{ name: string }>('select current_database() as name');
  const key = 0x3d32ad9en * BigInt(crc32(rows[0]!.name));
  await client.query(`select pg_advisory_${call}($1)`, [key]);
}

/**
 * What pgqrs' install() does, statement by statement.
 * @param between awaited after each migration that it applied
 */
export async function installAsPgqrs(
  client: pg.Client,
  edition: keyof typeof SIXTH = '0.15.3',
  between: (version: number) => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  await sqlxLock(client, 'lock');
  await client.query(`create table if not exists _sqlx_migrations (version bigint primary key, description text not null,
    installed_on timestamptz not null default now(), success boolean not null, checksum bytea not null,
    execution_time bigint not null)`);
  const { rows } = await client.query<{ version: string; checksum: string }>(
    `select version, encode(checksum, 'hex') as checksum from _sqlx_migrations`,
  );
  for (const [version, checksum, sql] of [...MIGRATIONS, [6, ...SIXTH[edition]] as const]) {
    const applied = rows.find((row) => Number(row.version) === version);
    if (applied && applied.checksum !== checksum) throw new Error(`VersionMismatch(${version})`);
    if (applied) continue;
    await client.query('begin');
    await client.query(sql);
    await client.query(
      `insert into _sqlx_migrations (version, description, success, checksum, execution_time)
       values (${version}, 'pgqrs', true, '\\x${checksum}', -1)`,
    );
    await client.query('commit');
    await between(version);
  }
  await sqlxLock(client, 'unlock');
}
