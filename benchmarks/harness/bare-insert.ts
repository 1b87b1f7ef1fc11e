import type pg from 'pg';

/** Puts one message in by hand. */
export type BareInsert = (on: Pick<pg.Pool, 'query'>, payload: object) => Promise<BareRow>;

interface BareRow {
  id: string;
  vt: Date;
  enqueued_at: Date;
}

/**
 * What one would write without the library for one message: a prepared INSERT that fills in the same columns as ours and
 * returns what ours returns. It does less: it checks nothing, pins neither queue nor producer, and wakes nobody.
 */
export function bareInsert(schema: string, queueId: string, workerId: string): BareInsert {
  const text = `
    insert into ${schema}.pgqrs_messages (queue_id, producer_worker_id, origin, payload) values ($1, $2, 1, $3)
    returning id, vt, enqueued_at`;
  return async (on, payload) => {
    const values = [queueId, workerId, JSON.stringify(payload)];
    const { rows } = await on.query<BareRow>({ name: 'bench_bare_insert', text, values });
    return rows[0] as BareRow;
  };
}
