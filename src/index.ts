export { Admin } from './admin.js';
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
export type { Message } from './message.js';
export {
  type IngestSummary,
  Producer,
  type ProducerCreateOptions,
  type ProducerOptions,
  type WritableOptions,
} from './producer.js';
export type { ForeignLeases, Id, Queue, StoredMessage, WorkerStatus } from './types.js';
export type { WorkerEvents, WorkerOptions } from './worker.js';
export * from '../streams/index.js';
