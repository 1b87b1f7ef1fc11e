import { onTestFinished } from 'vitest';
import { connect, type Id, type Message } from '../../src/index.js';
import { numbered, type Scenario } from '../support/scenario.js';

/** Messages with `n` from 0 on, in one batch. @returns their ids */
export async function enqueued(s: Scenario, count: number): Promise<Id[]> {
  const producer = await s.producer();
  return (await producer.batchEnqueue([...numbered(count)])).map(({ id }) => id);
}

/** The field `n` of what was delivered. */
export const ns = (messages: readonly Message[]) =>
  messages.map(({ payload }) => (payload as { n: number }).n);

/** As if the leases of all messages, or that of one, had ended that long ago. */
export async function leaseEnded(s: Scenario, secondsAgo: number, id?: Id): Promise<void> {
  await s.pool.query(
    `update ${s.schema}.pgqrs_messages set vt = now() - $1 * interval '1 second'
     where consumer_worker_id is not null and id = coalesce($2, id)`,
    [secondsAgo, id ?? null],
  );
}

/** Rows of a table as text, so that any change of any of them is seen. */
export async function rowsOf({ pool, schema }: Scenario, table: string): Promise<string[]> {
  const { rows } = await pool.query<{ row: string }>(
    `select t::text as row from ${schema}.${table} t order by 1`,
  );
  return rows.map(({ row }) => row);
}

/** Another connection to the same schema, over this URL. */
export async function connected(s: Scenario, url: URL | string) {
  const sluice = await connect({ dsn: String(url), schema: s.schema });
  onTestFinished(() => sluice.close());
  return sluice;
}
