import { orders } from '../harness/orders.js';
import { openPool } from '../harness/pool.js';
import { batches } from './batches.js';
import { fittingVersion } from './fitting-version.js';
import { countBy, type Peer, type Place } from './peer.js';

const SCHEMA = 'bench_graphile_worker';
/** The best that we found. By default nothing is fetched or completed in batches, and it is far slower. */
const SETTINGS = {
  concurrentJobs: 24,
  localQueue: { size: 5_000 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};

/** graphile-worker's `run`, on jobs that its own SQL function adds. */
export async function graphileWorker({ url, client }: Place): Promise<Peer | undefined> {
  const version = await fittingVersion('graphile-worker');
  if (version === undefined) return undefined;
  const { Logger, run, runMigrations } = await import('graphile-worker');
  const pgPool = openPool(url, 10);
  pgPool.on('connect', (each) => each.on('error', () => undefined)); // or it warns
  const logger = new Logger(() => () => undefined);
  const options = { pgPool, schema: SCHEMA, logger, noHandleSignals: true } as const;
  await client.query(`drop schema if exists ${SCHEMA} cascade`);
  await runMigrations(options);

  const empty = async () => {
    await client.query(`truncate ${SCHEMA}._private_jobs`);
  };
  const fill = async (count: number) => {
    await empty();
    for (const batch of batches(orders(count), 2_000)) {
      const jobs = batch.map((payload) => ({ identifier: 'order', payload }));
      await client.query(
        `select count(*) from ${SCHEMA}.add_jobs(array(
           select job from json_populate_recordset(null::${SCHEMA}.job_spec, $1) as job))`,
        [JSON.stringify(jobs)],
      );
    }
  };
  const consume = async (count: number) => {
    let handled = 0;
    let sawLast: () => void = () => undefined;
    const last = new Promise<void>((resolve) => (sawLast = resolve));
    const order = () => {
      if (++handled === count) sawLast();
    };
    const runner = await run({ ...options, taskList: { order }, preset: { worker: SETTINGS } });
    await last;
    await runner.stop(); // which sends what is still to be completed
    return handled;
  };
  const left = () => countBy(client, `select count(*) from ${SCHEMA}._private_jobs`);
  return {
    contenders: [{ name: 'graphile-worker, run', version, fill, consume, left, empty }],
    close: () => pgPool.end(),
  };
}
