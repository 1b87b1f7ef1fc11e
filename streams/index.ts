export { type MessageSource, MessageStream } from './message-stream.js';
export {
  type BatchOptions,
  type CommittedBatch,
  type FillingBatch,
  type IngestStats,
  ProducerStream,
  type ProducerStreamEvents,
  type RetryEvent,
  type Sink,
} from './producer-stream.js';
export { rateLimit, type RateLimitOptions } from './rate-limit.js';
