import { onTestFinished } from 'vitest';
import {
  type ConfigOptions,
  connect,
  type Consumer,
  type ConsumerOptions,
  type Producer,
  type ProducerOptions,
  type Queue,
  type Sluice,
} from '../../src/index.js';
import { type FreshSchema, freshSchema } from './database.js';

export interface Scenario extends FreshSchema {
  sluice: Sluice;
  queue: Queue;
  producer: (options?: ProducerOptions) => Promise<Producer>;
  consumer: (options?: ConsumerOptions) => Promise<Consumer>;
  /** Messages of the queue, archived ones too. */
  count: () => Promise<number>;
  /** The field `n` of all payloads in the order of delivery. */
  delivered: () => Promise<number[]>;
}

/** An installed schema with one queue, closed and dropped when the test is over. */
export async function scenario(settings: Omit<ConfigOptions, 'dsn' | 'schema'> = {}): Promise<Scenario> {
  const fresh = freshSchema();
  const sluice = await connect({ dsn: fresh.url, schema: fresh.schema, ...settings });
  onTestFinished(async () => {
    await sluice.close().catch(() => undefined);
    await fresh.drop();
  });
  await sluice.admin.install();
  const queue = await sluice.admin.createQueue('work');
  const messages = `${fresh.schema}.pgqrs_messages`;
  return {
    ...fresh,
    sluice,
    queue,
    producer: (options) => sluice.producer('work', options),
    consumer: (options) => sluice.consumer('work', options),
    count: async () => {
      const { rows } = await fresh.pool.query<{ count: number }>(
        `select count(*)::int as count from ${messages}`,
      );
      return rows[0]!.count;
    },
    delivered: async () => {
      const { rows } = await fresh.pool.query<{ n: number }>(
        `select (payload->>'n')::int as n from ${messages} order by vt, id`,
      );
      return rows.map(({ n }) => n);
    },
  };
}

/** Items that tell their place in the source. */
export function* numbered(count: number, from = 0): Generator<{ n: number; text: string }> {
  for (let n = from; n < from + count; n++) yield { n, text: `item ${n} — ünïcode ✓ \\ "quoted"` };
}
