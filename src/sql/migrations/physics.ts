import type { Piece } from './piece.js';
import { index, storage, withoutForeignKey, withoutIndex } from './piece.js';

/** Indexes, and what must go because it costs on every row. */
export const PHYSICS: readonly Piece[] = [
  // The order of delivery is exactly this index.
  index('sluice_messages_due', 'pgqrs_messages', 'using btree (queue_id, vt, id) where archived_at is null'),
  // Not BRIN: new keys take the places of old ones, and its ranges, which only grow, soon all hold everything.
  index('sluice_dedupe_end', 'sluice_dedupe', 'using btree (expires_at)'),
  index('sluice_failures_dead', 'sluice_failures', 'using btree (queue_id, dead_at, message_id)'),
  // A full queue turns all its rows over within minutes: vacuum by count, not by a fifth of the table, and never nap.
  storage('pgqrs_messages', {
    autovacuum_vacuum_scale_factor: '0.02',
    autovacuum_vacuum_threshold: '5000',
    autovacuum_analyze_scale_factor: '0.05',
    autovacuum_vacuum_cost_delay: '0',
  }),
  // One hot row per stream, updated by every batch: leave room for it on its page.
  storage('sluice_streams', { fillfactor: '50', autovacuum_vacuum_threshold: '500' }),
  withoutForeignKey('pgqrs_messages', 'pgqrs_queues'),
  withoutForeignKey('pgqrs_messages', 'pgqrs_workers'),
  withoutForeignKey('pgqrs_workflow_runs', 'pgqrs_messages'),
  withoutIndex('pgqrs_messages', 'idx_pgqrs_messages_hot_path'),
  withoutIndex('pgqrs_messages', 'idx_pgqrs_messages_consumer_worker_id_active'),
  withoutIndex('pgqrs_messages', 'idx_pgqrs_messages_archived_at'),
  withoutIndex('pgqrs_messages', 'idx_pgqrs_messages_producer_worker_id'),
];
