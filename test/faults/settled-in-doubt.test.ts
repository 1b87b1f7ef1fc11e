import { expect, test } from 'vitest';
import pg from 'pg';
import { connect } from '../../src/index.js';
import { Db } from '../../src/db.js';
import { settleMessages, wereArchived } from '../../src/sql/settle.js';
import type { Incarnation } from '../../src/sql/workers.js';
import { eventually } from '../support/eventually.js';
import { startPrimary } from '../support/replica.js';

test('what a stalled standby has not got is reported neither as archived nor as not held: the answer waits for it', async () => {
  const node = await startPrimary();
  await using sluice = await connect({ dsn: node.url, schema: 'queues' });
  await sluice.admin.install();
  const queue = await sluice.admin.createQueue('work');
  const { workerId } = await sluice.consumer('work');
  const [worker] = (await node.query(
    `select id::text, to_char(started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as incarnation
     from queues.pgqrs_workers where id = $1`,
    [workerId],
  )) as [Incarnation];
  const [message] = await node.query<{ id: string }>(
    `insert into queues.pgqrs_messages (queue_id, payload, read_ct, consumer_worker_id, vt)
     values ($1, '1', 1, $2, now() + interval '1 hour') returning id::text`,
    [queue.id, workerId],
  );
  const held = [{ id: message!.id, readCount: 1 }];
  const pool = new pg.Pool({ connectionString: node.url, max: 3, application_name: 'settling' });
  pool.on('error', () => undefined);
  const db = Db.over(pool, 'queues');
  const waiting = async (statement: string) =>
    (
      await node.query<{ pid: number }>(
        `select pid from pg_stat_activity
         where application_name = 'settling' and wait_event = 'SyncRep' and query like $1`,
        [`%sluice:${statement} %`],
      )
    )[0]?.pid;

  await node.query(`alter system set synchronous_standby_names = 'stalled'`);
  await node.query('select pg_reload_conf()');
  await eventually('the setting', async () => {
    const [row] = await node.query<{ names: string }>(
      `select current_setting('synchronous_standby_names') as names`,
    );
    return row?.names === 'stalled';
  });

  // Its commit is on this server alone, and visible, once nobody waits for it any more.
  const first = settleMessages(db, worker, { by: 'archive', held }).catch(() => 'no answer');
  const pid = await eventually('the commit waits', () => waiting('archive_messages'));
  await node.query('select pg_terminate_backend($1)', [pid]);
  expect(await first).toBe('no answer');
  expect(await node.query('select from queues.pgqrs_messages where archived_at is not null')).toHaveLength(1);

  const answers: string[] = [];
  const noted = <T>(what: string, answer: Promise<T>) => answer.finally(() => answers.push(what));
  const again = noted('again', settleMessages(db, worker, { by: 'archive', held }));
  const archived = noted('archived', wereArchived(db, worker, held));
  await eventually('both wait', async () => (await waiting('archive_messages')) && waiting('were_archived'));
  expect(answers).toEqual([]);

  await node.query('alter system reset synchronous_standby_names');
  await node.query('select pg_reload_conf()');
  expect(await again).toEqual([false]);
  expect(await archived).toEqual([true]);
  await db.close();
  await pool.end();
});
