import pg from 'pg';
import { onTestFinished } from 'vitest';
import {
  type ConfigOptions,
  connect,
  type Consumer,
  type Id,
  type Message,
  type MessagesOptions,
  type StoredMessage,
} from '../../src/index.js';
import { within } from '../support/eventually.js';
import type { Scenario } from '../support/scenario.js';

/** All messages as the table has them, by id, read by the driver alone. */
export async function stored({ pool, schema }: Scenario): Promise<StoredMessage[]> {
  const { rows } = await pool.query<StoredMessage>(
    `select id::text, queue_id::text as "queueId", payload, vt, enqueued_at as "enqueuedAt", read_ct as "readCount",
       dequeued_at as "dequeuedAt", producer_worker_id::text as "producerWorkerId",
       consumer_worker_id::text as "consumerWorkerId", archived_at as "archivedAt"
     from ${schema}.pgqrs_messages m order by m.id`,
  );
  return rows;
}

/** What an SQL expression over a message is, such as `vt - enqueued_at` in exact seconds. */
export async function of({ pool, schema }: Scenario, id: Id, expression: string): Promise<unknown> {
  const { rows } = await pool.query<{ value: unknown }>(
    `select ${expression} as value from ${schema}.pgqrs_messages where id = $1`,
    [id],
  );
  return rows[0]?.value;
}

/** Exact to the microsecond. */
export const DELAY = 'extract(epoch from vt - enqueued_at)::float8';
export const VT_MICROS = '(extract(epoch from vt) * 1000000)::int8::text';

/** As if the time had passed: everything that happened to messages, or will, is that much earlier. */
export async function elapse({ pool, schema }: Scenario, seconds: number): Promise<void> {
  await pool.query(
    `update ${schema}.pgqrs_messages set vt = vt - $1 * interval '1 second',
       enqueued_at = enqueued_at - $1 * interval '1 second', dequeued_at = dequeued_at - $1 * interval '1 second'`,
    [seconds],
  );
}

/** What reads one message after another, each as soon as it comes. */
export function reader(consumer: Consumer, options?: MessagesOptions): () => Promise<Message> {
  const messages = consumer.messages(options)[Symbol.asyncIterator]() as AsyncIterator<Message>;
  return async () => (await within(10_000, 'a message', messages.next())).value as Message;
}

/** A database that refuses rows: `condition` is a trigger's, and sees the row as `new`. */
export async function refusing(
  { pool, schema }: Scenario,
  condition: string,
  sqlState: string,
): Promise<void> {
  await pool.query(`
    create sequence ${schema}.tries;
    create function ${schema}.refuse() returns trigger language plpgsql as $$
    begin
      if ${condition} then raise exception 'refused by the test' using errcode = '${sqlState}'; end if;
      return new;
    end $$;
    create trigger refuse before insert on ${schema}.pgqrs_messages for each row execute function ${schema}.refuse()`);
}

/** A Sluice over a pool that tells every statement sent by it since it was last asked. */
export async function recorded(s: Scenario, settings: Omit<ConfigOptions, 'dsn' | 'schema'> = {}) {
  const pool = new pg.Pool({ connectionString: s.url, max: 4 });
  const sent: string[] = [];
  pool.on('connect', (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    client.query = ((...args: [string | pg.QueryConfig, ...unknown[]]) => {
      sent.push(typeof args[0] === 'string' ? args[0] : args[0].text);
      return query(...args);
    }) as typeof client.query;
  });
  const sluice = await connect({ pool, schema: s.schema, ...settings });
  onTestFinished(async () => {
    await sluice.close();
    await pool.end();
  });
  /** Names of ours, or the whole text of a nameless one. */
  const statements = () => sent.splice(0).map((text) => /sluice:(\w+)/.exec(text)?.[1] ?? text);
  return { sluice, statements };
}
