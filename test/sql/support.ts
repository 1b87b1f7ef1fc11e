import { onTestFinished } from 'vitest';
import { Db } from '../../src/db.js';
import type { Claim } from '../../src/sql/claim.js';
import type { Incarnation } from '../../src/sql/workers.js';
import type { Scenario } from '../support/scenario.js';

export interface OnSql {
  db: Db;
  worker: Incarnation;
  /** A claim of one message, as it is and with what is given. */
  claim: (given?: Partial<Claim>) => Claim;
}

/** The statements themselves, for a consumer that is registered. */
export async function onSql(s: Pick<Scenario, 'pool' | 'schema' | 'queue' | 'consumer'>): Promise<OnSql> {
  const { workerId } = await s.consumer();
  const { rows } = await s.pool.query<Incarnation>(
    `select id::text, to_char(started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as incarnation
     from ${s.schema}.pgqrs_workers where id = $1`,
    [workerId],
  );
  const worker = rows[0]!;
  const db = Db.over(s.pool, s.schema);
  onTestFinished(() => db.close());
  return {
    db,
    worker,
    claim: (given) => ({
      queueId: s.queue.id,
      maxReadCount: 5,
      foreignLeases: 'stale',
      limit: 1,
      worker,
      lockSeconds: 60,
      maxBytes: Infinity,
      floor: undefined,
      ...given,
    }),
  };
}
