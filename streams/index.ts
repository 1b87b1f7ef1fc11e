export type { Memory, Room } from './claim-loop.js';
export type { IngestStats } from './ingest-stats.js';
export { type MessageSource, MessageStream, type MessageStreamOptions } from './message-stream.js';
export { type BatchOptions, ProducerStream, type ProducerStreamEvents } from './producer-stream.js';
export { rateLimit, type RateLimitOptions } from './rate-limit.js';
export type {
  BacklogEvent,
  CommittedBatch,
  FillingBatch,
  RetryEvent,
  Sink,
  SinkEvents,
  StreamStart,
} from './sink.js';
