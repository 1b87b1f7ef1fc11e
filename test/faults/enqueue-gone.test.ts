import { expect, test } from 'vitest';
import {
  connect,
  type Producer,
  QueueNotFoundError,
  SchemaNotInstalledError,
  WorkerFencedError,
} from '../../src/index.js';
import { blocked, failureOf, onInsert } from '../enqueue/support.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';

/** Twenty tasks and one with batches that go on until something fails; what they were told is in, and how each ended. */
function load(producer: Producer, tasks = 20) {
  const ids = new Set<string>();
  const failures: Error[] = [];
  let stopped = false;
  const loop = async (call: () => Promise<string[]>) => {
    while (!stopped) {
      try {
        for (const id of await call()) ids.add(id);
      } catch (error) {
        failures.push(error as Error);
        return;
      }
    }
  };
  let n = 0;
  const running = Promise.all([
    ...Array.from({ length: tasks }, () => loop(async () => [(await producer.enqueue({ n: n++ })).id])),
    loop(async () => (await producer.batchEnqueue([{ n: n++ }, { n: n++ }])).map(({ id }) => id)),
  ]);
  return {
    ids,
    failures,
    running,
    stop: () => (stopped = true),
    begun: () => eventually('some messages', () => ids.size > 100),
  };
}

async function orphans({ pool, schema: s }: Scenario): Promise<number> {
  const { rows } = await pool.query<{ count: number }>(`
    select count(*)::int from ${s}.pgqrs_messages m
    where not exists (select from ${s}.pgqrs_queues q where q.id = m.queue_id)
      or not exists (select from ${s}.pgqrs_workers w where w.id = m.producer_worker_id)`);
  return rows[0]!.count;
}

test('a purge under way takes messages that were in, and no call fails for it', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const calls = load(producer);
  await calls.begun();
  for (let times = 0; times < 10; times++) await s.sluice.admin.purgeQueue('work');
  calls.stop();
  await calls.running;
  expect(calls.failures).toEqual([]);
  expect(await s.count()).toBeLessThan(calls.ids.size);
  const { rows } = await s.pool.query<{ id: string }>(`select id::text from ${s.schema}.pgqrs_messages`);
  for (const { id } of rows) expect(calls.ids.has(id)).toBe(true);
  await s.sluice.admin.verify();
});

/** Takes them away in the midst of the calls: those that have pinned the worker are waited for, the next ones wait. */
async function takeAway({ pool, schema: s }: Scenario, tables: readonly string[]): Promise<void> {
  await pool.query(
    `begin; select from ${s}.pgqrs_workers for update; delete from ${s}.pgqrs_messages;
     ${tables.map((table) => `delete from ${s}.${table};`).join('')} commit`,
  );
}

test('a worker that is deleted under way is fenced: every call says so, once as an event, and nothing is orphaned', async () => {
  const s = await scenario();
  const producer = await s.producer({ heartbeatIntervalSeconds: 3_600 });
  const events: WorkerFencedError[] = [];
  producer.on('fenced', (error) => events.push(error));
  const calls = load(producer);
  await calls.begun();
  await takeAway(s, ['pgqrs_workers']);
  await within(10_000, 'the calls', calls.running);
  expect(calls.failures).toHaveLength(21);
  for (const failure of calls.failures) expect(failure).toBeInstanceOf(WorkerFencedError);
  expect(events).toHaveLength(1);
  expect(await failureOf(producer.enqueue(1))).toBe(events[0]);
  expect(await failureOf(producer.batchEnqueue([1, 2]))).toBe(events[0]);
  expect(await orphans(s)).toBe(0);
  expect(await s.count()).toBe(0);
  await s.sluice.admin.verify();
  await producer.close();
});

test('a queue that is deleted under way, with its worker, is not found any more', async () => {
  const s = await scenario();
  const producer = await s.producer({ heartbeatIntervalSeconds: 3_600 });
  const calls = load(producer);
  await calls.begun();
  await takeAway(s, ['pgqrs_workers', 'pgqrs_queues']);
  await within(10_000, 'the calls', calls.running);
  for (const failure of calls.failures) expect(failure).toBeInstanceOf(QueueNotFoundError);
  expect(calls.failures).toHaveLength(21);
  expect(await failureOf(producer.enqueue(1))).toMatchObject({ code: 'QUEUE_NOT_FOUND', queue: 'work' });
  expect(await orphans(s)).toBe(0);
  await s.sluice.admin.verify();
});

test('a delete of the worker waits for a call that has pinned it, and is then refused', async () => {
  const s = await scenario();
  const producer = await s.producer();
  // A row that takes its time to be inserted: by then its worker is pinned.
  await onInsert(s, `perform pg_advisory_xact_lock(hashtext('{s}'));`);
  const holder = await s.pool.connect();
  await holder.query('select pg_advisory_lock(hashtext($1))', [s.schema]);
  const call = producer.enqueue({ n: 0 });
  await blocked(s);
  const deleted = s.pool.query(`delete from ${s.schema}.pgqrs_workers where id = ${producer.workerId}`).then(
    () => undefined,
    (error: unknown) => error,
  );
  await eventually('the delete to wait', async () => {
    const { rowCount } = await s.pool.query(
      `select from pg_stat_activity where wait_event_type = 'Lock' and query like 'delete from ' || $1 || '%'`,
      [s.schema],
    );
    return rowCount;
  });
  await holder.query('select pg_advisory_unlock_all()');
  holder.release();
  await within(10_000, 'the call', call);
  expect(await within(10_000, 'the delete', deleted)).toMatchObject({ code: '23503' });
  expect(await orphans(s)).toBe(0);
  await producer.enqueue({ n: 1 });
  expect(await s.count()).toBe(2);
});

test('a schema that is uninstalled under way is said to be missing, and after an install() the producer is not back', async () => {
  const s = await scenario();
  const producer = await s.producer({ heartbeatIntervalSeconds: 3_600 });
  const calls = load(producer);
  await calls.begun();
  await within(20_000, 'uninstall', s.sluice.admin.uninstall());
  await within(20_000, 'the calls', calls.running);
  expect(calls.failures).toHaveLength(21);
  for (const failure of calls.failures) expect(failure).toBeInstanceOf(SchemaNotInstalledError);
  expect(await failureOf(producer.enqueue(1))).toBeInstanceOf(SchemaNotInstalledError);
  const other = await connect({ dsn: s.url, schema: s.schema });
  await other.admin.install();
  await other.admin.createQueue('work');
  const again = await other.producer('work');
  await again.enqueue({ n: 1 });
  // Whoever was registered in the old tables is nobody in the new ones, even with the same id.
  expect(again.workerId).toBe(producer.workerId);
  expect(await failureOf(producer.enqueue({ n: 2 }))).toBeInstanceOf(WorkerFencedError);
  expect(await s.count()).toBe(1);
  await other.admin.verify();
  await other.close();
});
