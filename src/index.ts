export {
  Admin,
  type CreateQueueOptions,
  type ListWorkersOptions,
  type MetricsOptions,
  type WorkerHealthOptions,
} from './admin.js';
export { Config, type ConfigLoadOptions, type ConfigOptions, type ConfigValues } from './config.js';
export {
  connect,
  type ConnectOptions,
  type ConnectWithPool,
  type ListenOptions,
  type Sluice,
} from './connect.js';
export {
  Consumer,
  type ConsumerCreateOptions,
  type ConsumerOptions,
  type Held,
  type LeaseOptions,
  type MessagesOptions,
} from './consumer.js';
export * from './errors/index.js';
export type { MaxRejects, Reject } from './ingest/rejects.js';
export type { Resume, ResumeOptions } from './ingest/resume.js';
export type { BatchEnqueueOptions, Enqueued, EnqueueOptions } from './ingest/enqueue-options.js';
export type { IngestSource, Items } from './ingest/ingest.js';
export type { WritableOptions } from './ingest/writable-options.js';
export type { RateLimitStatus } from './limiter.js';
export type { Message } from './message.js';
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
export { type IngestSummary, Producer } from './producer.js';
export type { ProducerCreateOptions, ProducerOptions } from './producer-options.js';
export type { Due } from './sql/scheduled.js';
export type {
  ForeignLeases,
  Id,
  IngestStream,
  Queue,
  StoredMessage,
  WorkerInfo,
  WorkerStatus,
} from './types.js';
export { PayloadCheck, type PayloadRules } from './validation.js';
export type { WorkerEvents, WorkerOptions } from './worker.js';
export { WorkerHandle } from './worker-handle.js';
export type { Age } from './worker-row.js';
export * from '../streams/index.js';
