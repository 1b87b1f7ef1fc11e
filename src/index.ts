export { type ActiveFilter, ActiveMessages, type ListActiveOptions } from './active-messages.js';
export { Admin } from './admin.js';
export type {
  CreateQueueOptions,
  InstallOptions,
  ListWorkersOptions,
  MetricsOptions,
  PurgeWorkersOptions,
  ReclaimOptions,
  RetentionOptions,
  SweepOptions,
  WorkerHealthOptions,
  WorkerMessagesOptions,
} from './admin-options.js';
export { Archive, type ArchiveFilter, type ListArchiveOptions, type PurgeArchiveOptions } from './archive.js';
export { Config, type ConfigLoadOptions, type ConfigOptions, type ConfigValues } from './config.js';
export {
  connect,
  type ConnectOptions,
  type ConnectSettings,
  type ConnectWithPool,
  type Sluice,
} from './connect.js';
export { Consumer, type Held } from './consumer.js';
export type {
  ConsumerCreateOptions,
  ConsumerOptions,
  LeaseOptions,
  MessagesOptions,
} from './consumer-options.js';
export { type MessageMemory, messageMemory } from './consume/memory.js';
export type { Failure } from './consume/outcome.js';
export type { Messages } from './consume/reading.js';
export type { Backoff, ExponentialBackoff } from './consume/retry-policy.js';
export type {
  BatchHandler,
  Handler,
  HandlerContext,
  RunBatchOptions,
  RunOptions,
  RunSummary,
  TransactionalContext,
} from './consume/run-options.js';
export { type DeadLetterFilter, DeadLetters, type ListDeadLettersOptions } from './dead-letters.js';
export * from './errors/index.js';
export type { MaxRejects, Reject } from './ingest/rejects.js';
export type { Resume, ResumeOptions } from './ingest/resume.js';
export type { BatchEnqueueOptions, Enqueued, EnqueueOptions } from './ingest/enqueue-options.js';
export type { IngestSource, Items } from './ingest/source.js';
export type { WritableOptions } from './ingest/writable-options.js';
export type { RateLimitStatus } from './limiter.js';
export type { DeadLetterOptions, Message, ReleaseOptions, SettleOptions } from './message.js';
export type {
  MessageCounts,
  PgqrsQueueMetrics,
  PgqrsSystemStats,
  QueueMetrics,
  SystemStats,
  WorkerCounts,
  WorkerHealthStats,
  WorkerStats,
} from './metrics.js';
export type { PageOptions } from './pages.js';
export { type IngestSummary, Producer } from './producer.js';
export type { ProducerCreateOptions, ProducerOptions } from './producer-options.js';
export type { Due } from './sql/scheduled.js';
export type {
  ActiveMessage,
  ActiveState,
  DeadMessage,
  ForeignLeases,
  Id,
  IdLike,
  IngestStream,
  MessagePage,
  Queue,
  QueueSettings,
  Reclaimed,
  StoredMessage,
  WorkerInfo,
  WorkerStatus,
} from './types.js';
export { PayloadCheck, type PayloadRules } from './validation.js';
export { Worker, type WorkerEvents, type WorkerOptions } from './worker.js';
export { WorkerHandle } from './worker-handle.js';
export type { Age } from './worker-row.js';
export * from '../streams/index.js';
