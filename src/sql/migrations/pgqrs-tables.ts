import type { Piece } from './piece.js';
import { bookkeeping, table, type } from './piece.js';

/**
 * pgqrs' migrations: version (there is no 5), description, SHA-384 of the file, and that of a later edition of the file
 * which makes the same tables.
 */
const MIGRATIONS: readonly (readonly [
  version: number,
  description: string,
  checksum: string,
  later?: string,
])[] = [
  [
    1,
    'create worker status enum',
    'd2c9fdceef8a50d25d477ad3591c44d22523e3796c5d89f2185cdbbad5b744b50f4d33835e8282787566b2e72a92ed30',
  ],
  [
    2,
    'create queue table',
    '0e249be0fa88e93f2389598a7846b14d2222e920125411f9c5b2a45ee7e4e502d0f66cec66ebf072519e63b9633c3839',
  ],
  [
    3,
    'create worker table',
    '4a8661ec5994583653419ede0358f6ebdd1afc7007badc2df474cb61453a0c06c95c787770cf74902ae350991cc5eb59',
  ],
  [
    4,
    'create messages table',
    'a6fb1fcb94e74fffd5d4a4a8167e6a79c494a169659fa29fb3d5a4ccdef5905b7387372875471eb7d9b6c23b19687fed',
  ],
  [
    6,
    'create workflow tables',
    '6df4919f0208ce174be4aef9e8752615426a1346b1f641a4de5389254b68d92da14a27c58e61aa81207d7263c61b9723',
    // pgqrs' main branch after 0.15.3: the status CANCELLING and CANCELLED of workflows.
    'da7689e4422499597ca8397871fe99892fe7b8b6747ae4a264cdb347afe49f71f5d6750db4f5b02b000888a1669adaf6',
  ],
];
const CHECKSUMS = new Map(
  MIGRATIONS.map(([version, , ...checksums]) => [String(version), checksums as readonly string[]]),
);

const MIGRATIONS_TABLE = table(
  '_sqlx_migrations',
  () => `
    version bigint primary key,
    description text not null,
    installed_on timestamptz not null default now(),
    success boolean not null,
    checksum bytea not null,
    execution_time bigint not null`,
);

/**
 * The tables of pgqrs 0.15.2 and 0.15.3: same names, columns, types and enum labels, so that its clients work on them.
 * What is left out on purpose: the foreign keys from and to pgqrs_messages (triggers.ts guards instead)
 * and pgqrs' secondary indexes on it (physics.ts has ours).
 */
export const PGQRS_TABLES: readonly Piece[] = [
  type('worker_status', ['ready', 'polling', 'suspended', 'interrupted', 'stopped']),
  type('pgqrs_workflow_status', ['QUEUED', 'RUNNING', 'SUCCESS', 'ERROR', 'PAUSED']),

  table(
    'pgqrs_queues',
    () => `
    id bigserial primary key,
    queue_name varchar not null unique,
    created_at timestamptz not null default now()`,
  ),

  table(
    'pgqrs_workers',
    (s) => `
    id bigint generated always as identity primary key,
    name text not null unique,
    queue_id bigint references ${s}.pgqrs_queues (id),
    started_at timestamptz default now(),
    heartbeat_at timestamptz default now(),
    shutdown_at timestamptz,
    status ${s}.worker_status not null default 'ready'`,
  ),

  table(
    'pgqrs_messages',
    () => `
    id bigserial primary key,
    queue_id bigint not null,
    payload jsonb not null,
    vt timestamptz default now(),
    enqueued_at timestamptz default now(),
    read_ct int default 0,
    dequeued_at timestamptz,
    producer_worker_id bigint,
    consumer_worker_id bigint,
    archived_at timestamptz`,
  ),

  table(
    'pgqrs_workflows',
    (s) => `
    id bigserial primary key,
    name varchar(255) not null unique,
    queue_id bigint not null references ${s}.pgqrs_queues (id),
    created_at timestamptz not null default now()`,
  ),

  table(
    'pgqrs_workflow_runs',
    (s) => `
    id bigserial primary key,
    workflow_id bigint not null references ${s}.pgqrs_workflows (id) on delete cascade,
    message_id bigint not null unique,
    status ${s}.pgqrs_workflow_status not null,
    input jsonb,
    output jsonb,
    error jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    started_at timestamptz,
    paused_at timestamptz,
    completed_at timestamptz,
    worker_id bigint references ${s}.pgqrs_workers (id)`,
  ),

  table(
    'pgqrs_workflow_steps',
    (s) => `
    id bigserial primary key,
    run_id bigint not null references ${s}.pgqrs_workflow_runs (id) on delete cascade,
    step_name varchar(255) not null,
    status ${s}.pgqrs_workflow_status not null,
    input jsonb,
    output jsonb,
    error jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    started_at timestamptz,
    completed_at timestamptz,
    retry_count int not null default 0,
    retry_at timestamptz,
    last_retry_at timestamptz,
    unique (run_id, step_name)`,
  ),

  // pgqrs' install() decides by these rows alone; with them it is a no-op.
  {
    ...MIGRATIONS_TABLE,
    // It may hold migrations of another application too.
    remove: (found) =>
      Object.entries(found.pgqrsMigrations).every(([version, { checksum }]) =>
        CHECKSUMS.get(version)?.includes(checksum),
      )
        ? (MIGRATIONS_TABLE.remove?.(found) ?? [])
        : [],
  },
  ...MIGRATIONS.map(([version, description, ...checksums]) => bookkeeping(version, description, checksums)),
];
