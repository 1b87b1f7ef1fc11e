import type { Piece } from './piece.js';
import { column, table } from './piece.js';

/** Our own tables beside pgqrs', and our one column on its messages. */
export const SLUICE_TABLES: readonly Piece[] = [
  table(
    'sluice_migrations',
    () => `
    version int primary key,
    name text not null,
    installed_at timestamptz not null default now()`,
  ),

  // Which workers are ours: their expired leases come back by themselves, those of foreign workers by policy.
  table(
    'sluice_workers',
    (s) => `
    worker_id bigint primary key references ${s}.pgqrs_workers (id) on delete cascade`,
  ),

  // The ingest ledger: one row per stream, moved by the last statement of each batch's transaction. A stream that can be
  // resumed has no worker: its row outlives them all.
  table(
    'sluice_streams',
    (s) => `
    id bigint generated always as identity primary key,
    name text not null unique,
    queue_id bigint not null references ${s}.pgqrs_queues (id) on delete cascade,
    worker_id bigint references ${s}.pgqrs_workers (id) on delete cascade,
    epoch bigint not null default 1,
    seq bigint not null default 0,
    rows bigint not null default 0,
    position text not null default '',
    updated_at timestamptz not null default now()`,
  ),

  // Keys that keep their like out of a queue for a while. No foreign key: it would cost on every row, and keys end.
  table(
    'sluice_dedupe',
    () => `
    queue_id bigint not null,
    key text not null,
    expires_at timestamptz not null,
    primary key (queue_id, key)`,
  ),

  // Why an archived message is a dead letter. No foreign key: it would cost on every message that is deleted;
  // sluice_messages_gone takes the row along instead.
  table(
    'sluice_failures',
    () => `
    message_id bigint primary key,
    queue_id bigint not null,
    reason text not null,
    last_error text,
    attempts int not null,
    dead_at timestamptz not null default now()`,
  ),

  // What an operator has set for a queue; no row means nothing. Seconds that archived messages and dead letters are kept.
  table(
    'sluice_queues',
    (s) => `
    queue_id bigint primary key references ${s}.pgqrs_queues (id) on delete cascade,
    paused_at timestamptz,
    archive_seconds float8,
    dead_letter_seconds float8`,
  ),

  // How far the walks of retention have come, which all processes share: behind `after`, or where that is null at the
  // beginning. The row's lock is the turn.
  table(
    'sluice_walks',
    () => `
    name text primary key,
    after_at timestamptz,
    after_id bigint,
    ended_at timestamptz`,
  ),

  // Who wrote last: null a foreign client; 1 a producer of ours; 2 or 3, by turns, a claim of ours that handed the message
  // out to wait for a handler; 4 or 5, by turns, a handler that begins on the last delivery of a message that may end its
  // process, or that has let go of one; 6 the sweep, which gives a last delivery back that no handler has seen. So the
  // triggers that check references row by row can leave our rows alone, since we have pinned already: inserts of ours set
  // it and claims of ours change it. And the sweep knows which last deliveries ended with their process before any handler
  // had begun. Earlier versions, which may still be at work, have claims write 1 and 2.
  column('pgqrs_messages', 'origin', 'smallint'),
];
