import { orders } from '../harness/orders.js';
import { batches } from './batches.js';
import { fittingVersion } from './fitting-version.js';
import { countBy, type Peer, type Place } from './peer.js';

const SCHEMA = 'bench_pg_boss';
const QUEUE = 'bench';
const BATCH = 2_000;
const LOOPS = 2;

/**
 * pg-boss' `fetch` and `complete`. Not its `work`: that asks once in an interval of half a second or more, so that its
 * rate is whatever one chooses as the size of its batches.
 */
export async function pgBoss({ url, client }: Place): Promise<Peer | undefined> {
  const version = await fittingVersion('pg-boss');
  if (version === undefined) return undefined;
  const { PgBoss, default: Boss } = await import('pg-boss');
  await client.query(`drop schema if exists ${SCHEMA} cascade`);
  const boss = new (PgBoss ?? Boss)({
    connectionString: url,
    schema: SCHEMA,
    max: LOOPS + 1,
    supervise: false,
    schedule: false,
  });
  boss.on('error', (error) => console.error(`pg-boss: ${error.message}`));
  await boss.start();
  await boss.createQueue(QUEUE);

  const insert = (batch: object[]) =>
    version.startsWith('10.')
      ? boss.insert(batch.map((data) => ({ name: QUEUE, data })))
      : boss.insert(
          QUEUE,
          batch.map((data) => ({ data })),
        );
  const empty = async () => {
    await client.query(`truncate ${SCHEMA}.job`);
  };
  const fill = async (count: number) => {
    await empty();
    for (const batch of batches(orders(count), BATCH)) await insert(batch);
  };
  const consume = async () => {
    let handled = 0;
    const loop = async () => {
      for (;;) {
        const jobs = await boss.fetch(QUEUE, { batchSize: BATCH });
        if (jobs.length === 0) return;
        handled += jobs.length;
        await boss.complete(
          QUEUE,
          jobs.map(({ id }) => id),
        );
      }
    };
    await Promise.all(Array.from({ length: LOOPS }, loop));
    return handled;
  };
  const left = () => countBy(client, `select count(*) from ${SCHEMA}.job where state <> 'completed'`);
  return {
    contenders: [{ name: 'pg-boss, fetch and complete', version, fill, consume, left, empty }],
    close: () => boss.stop({ graceful: false }),
  };
}
