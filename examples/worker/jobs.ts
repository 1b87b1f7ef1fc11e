import type { Consumer, RunOptions, RunSummary } from 'pg-sluice';
import { book, type Payment } from './payments.js';
import { deliver, type Webhook } from './webhooks.js';

/** What the worker does to the messages of a queue. */
export interface Job {
  queue: string;
  run: (consumer: Consumer, options: Pick<RunOptions, 'shutdownSeconds' | 'signal'>) => Promise<RunSummary>;
}

export const JOBS: readonly Job[] = [
  {
    queue: 'webhooks',
    run: (consumer, options) => consumer.run<Webhook>(deliver, { ...options, concurrency: 16, prefetch: 4 }),
  },
  {
    queue: 'payments',
    // A transaction for each handler at work: no more of them than the pool has connections.
    run: (consumer, options) =>
      consumer.run<Payment>(book, { ...options, concurrency: 4, transactional: true, onSuccess: 'delete' }),
  },
];
