import type { Scenario } from './scenario.js';

export interface Put {
  count: number;
  /** SQL over `g`, the number of the message from 1 on. */
  columns?: Record<string, string>;
}

/** Messages of the queue as statements of whatever client may have left them. @returns their ids, ascending */
export async function put(
  { pool, schema, queue }: Pick<Scenario, 'pool' | 'schema' | 'queue'>,
  { count, columns = {} }: Put,
): Promise<string[]> {
  const all = { queue_id: queue.id, payload: `jsonb_build_object('n', g)`, ...columns };
  const names = Object.keys(all).join(', ');
  const values = Object.values(all).join(', ');
  const { rows } = await pool.query<{ id: string }>(
    `insert into ${schema}.pgqrs_messages (${names}) select ${values} from generate_series(1, ${count}) g
     returning id::text`,
  );
  return rows.map(({ id }) => id);
}

/** Dead letters that died `age` ago (SQL over `g`), and were archived then. */
export async function putDead(
  here: Pick<Scenario, 'pool' | 'schema' | 'queue'>,
  count: number,
  { reason = `'exhausted'`, age = `interval '0'` }: { reason?: string; age?: string } = {},
): Promise<string[]> {
  const ids = await put(here, {
    count,
    columns: { archived_at: `now() - (${age})`, read_ct: '5', vt: `now() - interval '1 day'` },
  });
  await here.pool.query(
    `insert into ${here.schema}.sluice_failures (message_id, queue_id, reason, last_error, attempts, dead_at)
     select m.id, m.queue_id, ${reason}, 'boom ' || g, 5, m.archived_at
     from unnest($1::bigint[]) with ordinality as d (id, g) join ${here.schema}.pgqrs_messages m on m.id = d.id`,
    [ids],
  );
  return ids;
}

/** A workflow run of pgqrs' that refers to the message. */
export async function referTo({ pool, schema, queue }: Scenario, messageId: string): Promise<void> {
  await pool.query(
    `with flow as (insert into ${schema}.pgqrs_workflows (name, queue_id) values (gen_random_uuid(), ${queue.id}) returning id)
     insert into ${schema}.pgqrs_workflow_runs (workflow_id, message_id, status) select id, $1, 'QUEUED' from flow`,
    [messageId],
  );
}

/** Ids in the table of failures, ascending. */
export async function failures({ pool, schema }: Scenario): Promise<string[]> {
  const { rows } = await pool.query<{ id: string }>(
    `select message_id::text as id from ${schema}.sluice_failures order by message_id`,
  );
  return rows.map(({ id }) => id);
}
