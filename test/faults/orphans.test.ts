// Long because every writer meets every delete here, ours and foreign ones, with the same set-up.
import pg from 'pg';
import { describe, expect, test } from 'vitest';
import { DatabaseError, QueueInUseError, QueueNotFoundError, WorkerInUseError } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { numbered, scenario, type Scenario } from '../support/scenario.js';

/** References without foreign keys: whatever deletes race whatever writes, no message ever refers to what is gone. */

const BATCHES = 200;
const ROWS = 4;

interface Target extends Scenario {
  queueName: string;
  queueId: string;
  workerId: string;
}

type Step = (target: Target) => Promise<unknown>;

/** Each takes away what the running ingest needs: messages first, then what they refer to. */
const WAYS: Record<string, { messages: Step; worker: Step; queue?: Step }> = {
  'our admin': {
    messages: ({ sluice, queueName }) => sluice.admin.purgeQueue(queueName),
    worker: ({ sluice, workerId }) => sluice.admin.deleteWorker(workerId),
    queue: ({ sluice, queueName }) => sluice.admin.deleteQueue(queueName),
  },
  'a foreign client, statement by statement': {
    messages: ({ pool, schema, queueId }) =>
      pool.query(`delete from ${schema}.pgqrs_messages where queue_id = ${queueId}`),
    worker: ({ pool, schema, workerId }) =>
      pool.query(`delete from ${schema}.pgqrs_workers where id = ${workerId}`),
    queue: ({ pool, schema, queueId }) =>
      pool.query(`delete from ${schema}.pgqrs_queues where id = ${queueId}`),
  },
  'a foreign client, in one transaction': {
    // One message to the server is one transaction.
    messages: ({ pool, schema, queueId, workerId }) =>
      pool.query(`delete from ${schema}.pgqrs_messages where queue_id = ${queueId};
        delete from ${schema}.pgqrs_workers where id = ${workerId};
        delete from ${schema}.pgqrs_queues where id = ${queueId}`),
    worker: ({ pool, schema, workerId }) =>
      pool.query(`delete from ${schema}.pgqrs_workers where id = ${workerId}`),
  },
  'a foreign client, which moves the worker to no queue,': {
    messages: ({ pool, schema, queueId, workerId }) =>
      pool.query(`delete from ${schema}.pgqrs_messages where queue_id = ${queueId};
        update ${schema}.pgqrs_workers set queue_id = null where id = ${workerId};
        delete from ${schema}.pgqrs_queues where id = ${queueId}`),
    worker: ({ pool, schema, workerId }) =>
      pool.query(`delete from ${schema}.pgqrs_workers where id = ${workerId}`),
  },
  TRUNCATE: {
    messages: ({ pool, schema }) => pool.query(`truncate ${schema}.pgqrs_messages`),
    worker: ({ pool, schema }) => pool.query(`truncate ${schema}.pgqrs_workers cascade`),
  },
};

async function orphans({ pool, schema: s }: Scenario): Promise<number> {
  const { rows } = await pool.query<{ count: number }>(`
    select count(*)::int from ${s}.pgqrs_messages m
    where not exists (select from ${s}.pgqrs_queues q where q.id = m.queue_id)
      or m.producer_worker_id is not null and not exists (select from ${s}.pgqrs_workers w where w.id = m.producer_worker_id)
      or m.consumer_worker_id is not null and not exists (select from ${s}.pgqrs_workers w where w.id = m.consumer_worker_id)`);
  return rows[0]!.count;
}

/** Refused because something still refers to it: by a key, by a trigger, or by our admin. */
function isRefused(error: unknown): boolean {
  if (error instanceof QueueInUseError || error instanceof WorkerInUseError) return true;
  const state = error instanceof DatabaseError ? error.sqlState : (error as { code?: string }).code;
  return state === '23503';
}

function passOverMissingQueue(error: unknown): void {
  if (!(error instanceof QueueNotFoundError)) throw error;
}

/** Tries the steps, of which each may be refused, while `writing` and until all are done. */
async function takeAway(target: Target, steps: readonly Step[], writing: Promise<unknown>): Promise<void> {
  const over = new AbortController();
  const ended = writing.catch(() => undefined).then(() => over.abort());
  // Not once more after the last is done: that would clear away the orphans that it left.
  let refused = true;
  while (refused && !over.signal.aborted) {
    refused = false;
    for (const step of steps) {
      try {
        await step(target);
      } catch (error) {
        if (!isRefused(error)) throw error;
        refused = true;
      }
    }
  }
  await ended;
}

describe.each(Object.entries(WAYS))('under an ingest %s deletes', (_, { messages, worker, queue }) => {
  test.each(['copy', 'insert'] as const)(
    'by %s: it ends whole or fenced, without orphans',
    async (method) => {
      const here = await scenario({ maxConnections: 8 });
      for (let round = 0; round < 2; round++) {
        const queueName = `round ${round}`;
        const { id: queueId } = await here.sluice.admin.createQueue(queueName);
        const producer = await here.sluice.producer(queueName);
        const target = { ...here, queueName, queueId, workerId: producer.workerId };
        const ingesting = producer.ingest(numbered(BATCHES * ROWS), { batchSize: ROWS, method });
        ingesting.catch(() => undefined);
        await eventually('it has begun', async () => {
          const { rows } = await here.pool.query(
            `select from ${here.schema}.pgqrs_messages where queue_id = ${queueId} limit 1`,
          );
          return rows.length > 0;
        });
        expect(await worker(target).then(() => 'done', isRefused)).toBe(true);
        const steps = [messages, worker, ...(queue ? [queue] : [])];
        await within(20_000, 'the race', takeAway(target, steps, ingesting));
        const code = await ingesting.then(
          () => 'whole',
          (error: unknown) => (error as { code: string }).code,
        );
        expect(code).toMatch(/^(whole|WORKER_FENCED|QUEUE_NOT_FOUND|STREAM_NOT_FOUND)$/);
        await producer.close();
        expect(await orphans(here)).toBe(0);
        await here.sluice.admin.verify();
        // Now nothing stands in its way any more.
        await messages(target).catch(passOverMissingQueue);
        await worker(target);
      }
    },
  );
});

test.each([
  ['a worker', 'own', 'delete from {s}.pgqrs_workers'],
  [
    'the queue, once it has moved the worker away,',
    'own',
    `update {s}.pgqrs_workers set queue_id = null; delete from {s}.pgqrs_queues where queue_name = 'work'`,
  ],
  [
    'a queue that is not the worker’s own',
    'other',
    `delete from {s}.pgqrs_queues where queue_name = 'other'`,
  ],
  ['workers by TRUNCATE', 'own', 'truncate {s}.pgqrs_workers cascade'],
])(
  'who deletes %s waits for a batch that has pinned it, and is then refused',
  async (_, which, statement) => {
    const here = await scenario();
    const { pool, schema: s, url, sluice } = here;
    const other = await sluice.admin.createQueue('other');
    const queue = which === 'own' ? here.queue : other;
    const { workerId } = await here.producer();
    const { rows } = await pool.query<{ incarnation: string }>(
      `select started_at::text as incarnation from ${s}.pgqrs_workers`,
    );
    const batch = new pg.Client({ connectionString: url });
    await batch.connect();
    try {
      await batch.query(`begin; select ${s}.sluice_pin(${queue.id}, ${workerId}, '${rows[0]!.incarnation}');
      insert into ${s}.pgqrs_messages (queue_id, producer_worker_id, origin, payload) values (${queue.id}, ${workerId}, 1, '{}')`);
      const deleting = pool.query(statement.replaceAll('{s}', s)).then(() => 'done', isRefused);
      await eventually('the delete waits', async () => {
        const { rowCount } = await pool.query(
          `select from pg_stat_activity where wait_event_type = 'Lock' and query like '%${s}%'`,
        );
        return rowCount;
      });
      await batch.query('commit');
      expect(await within(10_000, 'the delete', deleting)).toBe(true);
    } finally {
      await batch.end();
    }
    expect(await orphans(here)).toBe(0);
  },
);

test('writers side by side need no multixact for the row of their queue', async () => {
  const { pool, schema, url, producer } = await scenario();
  const writers = [await producer(), await producer()];
  const locker = async () => {
    const { rows } = await pool.query<{ xmax: string }>(`select xmax::text from ${schema}.pgqrs_queues`);
    return rows;
  };
  const before = await locker();
  const clients = writers.map(() => new pg.Client({ connectionString: url }));
  try {
    for (const [at, client] of clients.entries()) {
      await client.connect();
      await client.query('begin');
      await writers[at]!.enqueue({}, { client });
    }
    expect(await locker()).toEqual(before);
  } finally {
    for (const client of clients) await client.end();
  }
});

describe('a foreign writer, which sets no origin', () => {
  const MISSING = '99999';
  const insert = (s: string, queue: string, producer: string, consumer: string) =>
    `insert into ${s}.pgqrs_messages (queue_id, payload, producer_worker_id, consumer_worker_id)
     values (${queue}, '{}', ${producer}, ${consumer}) returning id`;

  test.each([
    ['queue', [MISSING, 'null', 'null']],
    ['producer', ['{queue}', MISSING, 'null']],
    ['consumer', ['{queue}', 'null', MISSING]],
  ] as const)('cannot insert a message of a missing %s', async (_, ids) => {
    const { pool, schema, queue } = await scenario();
    const [q, p, c] = ids.map((id) => id.replace('{queue}', queue.id)) as [string, string, string];
    await expect(pool.query(insert(schema, q, p, c))).rejects.toMatchObject({ code: '23503' });
  });

  test.each(['queue_id', 'producer_worker_id', 'consumer_worker_id'])(
    'cannot point %s of a message to what is missing',
    async (column) => {
      const { pool, schema, queue } = await scenario();
      await pool.query(insert(schema, queue.id, 'null', 'null'));
      await expect(
        pool.query(`update ${schema}.pgqrs_messages set ${column} = ${MISSING}`),
      ).rejects.toMatchObject({ code: '23503' });
    },
  );

  test('cannot claim for a deleted worker, not even a message that a consumer of ours has had', async () => {
    const { pool, schema, producer, consumer } = await scenario();
    await (await producer()).ingest(numbered(1));
    const gone = await consumer();
    const ours = await consumer();
    await gone.close();
    await pool.query(`delete from ${schema}.pgqrs_workers where id = ${gone.workerId}`);
    const claim = `update ${schema}.pgqrs_messages set consumer_worker_id = ${gone.workerId}, vt = now() + interval '30 s'`;
    for (let times = 0; times < 3; times++) {
      await expect(pool.query(claim)).rejects.toMatchObject({ code: '23503' });
      // The server answers a refused claim before it lets go of the message.
      const message = await eventually('the message is claimed', () => ours.dequeue());
      await expect(pool.query(claim)).rejects.toMatchObject({ code: '23503' });
      expect(await message.release()).toBe(true);
    }
    await expect(
      pool.query(`update ${schema}.pgqrs_messages set consumer_worker_id = ${ours.workerId}`),
    ).resolves.toMatchObject({ rowCount: 1 });
  });

  test('races deletes of its queue and worker without leaving an orphan', async () => {
    const here = await scenario();
    const { pool, schema: s } = here;
    const total = { written: 0, refused: 0, deleted: 0 };
    for (let round = 0; round < 40; round++) {
      await pool.query(`insert into ${s}.pgqrs_queues (queue_name) values ('q${round}');
        insert into ${s}.pgqrs_workers (name, queue_id) select queue_name, id from ${s}.pgqrs_queues where queue_name = 'q${round}'`);
      const write = () =>
        pool.query(`insert into ${s}.pgqrs_messages (queue_id, payload, producer_worker_id)
          select queue_id, '{}', id from ${s}.pgqrs_workers where name = 'q${round}'`);
      const remove = () =>
        pool.query(`delete from ${s}.pgqrs_workers where name = 'q${round}';
          delete from ${s}.pgqrs_queues where queue_name = 'q${round}'`);
      // Which comes first is up to the server: two of them start at once.
      const [deleted, ...written] = await Promise.allSettled(
        round % 2 ? [remove(), write(), write()] : [remove(), write()],
      );
      if (deleted.status === 'fulfilled') total.deleted++;
      for (const outcome of [deleted, ...written]) {
        if (outcome.status === 'rejected') {
          expect(outcome.reason).toMatchObject({ code: '23503' });
          total.refused++;
        } else if (outcome !== deleted) total.written++;
      }
    }
    expect(await orphans(here)).toBe(0);
    await here.sluice.admin.verify();
    expect(total.written).toBeGreaterThan(0);
    expect(total.deleted + total.refused).toBeGreaterThan(0);
  });
});

describe('at REPEATABLE READ', () => {
  const atRepeatableRead = (statement: string) =>
    `begin isolation level repeatable read; ${statement}; commit`;

  test.each([
    'delete from {s}.pgqrs_queues',
    'delete from {s}.pgqrs_workers',
    'truncate {s}.pgqrs_queues cascade',
  ])('it is refused to %s, whose guard could not see what was committed meanwhile', async (statement) => {
    const { pool, schema } = await scenario();
    const client = await pool.connect();
    try {
      await expect(client.query(atRepeatableRead(statement.replace('{s}', schema)))).rejects.toMatchObject({
        code: '0A000',
      });
    } finally {
      client.release(true);
    }
  });

  test('a message may be deleted, but not once a run refers to it that the transaction does not see', async () => {
    const { pool, schema: s, queue, producer } = await scenario();
    await (await producer()).ingest(numbered(2));
    await pool.query(`insert into ${s}.pgqrs_workflows (name, queue_id) values ('flow', ${queue.id})`);
    const client = await pool.connect();
    try {
      await client.query('begin isolation level repeatable read');
      const { rows } = await client.query<{ id: string }>(`select id from ${s}.pgqrs_messages order by id`);
      const [first, second] = rows.map(({ id }) => id) as [string, string];
      await client.query(`delete from ${s}.pgqrs_messages where id = ${first}`);
      await pool.query(
        `insert into ${s}.pgqrs_workflow_runs (workflow_id, message_id, status) select id, ${second}, 'QUEUED' from ${s}.pgqrs_workflows`,
      );
      await expect(
        client.query(`delete from ${s}.pgqrs_messages where id = ${second}`),
      ).rejects.toMatchObject({ code: '40001' });
    } finally {
      client.release(true);
    }
  });
});

describe('runs of workflows', () => {
  async function withRun() {
    const here = await scenario();
    const { pool, schema: s, queue } = here;
    await (await here.producer()).ingest(numbered(1));
    await pool.query(`insert into ${s}.pgqrs_workflows (name, queue_id) values ('flow', ${queue.id});
      insert into ${s}.pgqrs_workflow_runs (workflow_id, message_id, status)
        select w.id, m.id, 'QUEUED' from ${s}.pgqrs_workflows w, ${s}.pgqrs_messages m`);
    return here;
  }

  test("keep their message: nobody's delete takes it", async () => {
    const here = await withRun();
    const { pool, schema: s, sluice, consumer } = here;
    await expect(pool.query(`delete from ${s}.pgqrs_messages`)).rejects.toMatchObject({ code: '23503' });
    await expect(pool.query(`truncate ${s}.pgqrs_messages`)).rejects.toMatchObject({ code: '23503' });
    await expect(sluice.admin.purgeQueue('work')).rejects.toMatchObject({ sqlState: '23503' });
    const ours = await consumer();
    const message = await ours.dequeue();
    await expect(message!.delete()).rejects.toMatchObject({ sqlState: '23503' });
    expect(await here.count()).toBe(1);
    await pool.query(`delete from ${s}.pgqrs_workflow_runs`);
    expect(await sluice.admin.purgeQueue('work')).toBe(1);
  });

  test('cannot be made for a missing message, nor moved to one', async () => {
    const { pool, schema: s } = await withRun();
    await expect(
      pool.query(`insert into ${s}.pgqrs_workflow_runs (workflow_id, message_id, status)
        select id, 99999, 'QUEUED' from ${s}.pgqrs_workflows`),
    ).rejects.toMatchObject({ code: '23503' });
    await expect(pool.query(`update ${s}.pgqrs_workflow_runs set message_id = 99999`)).rejects.toMatchObject({
      code: '23503',
    });
  });

  test.each(['read committed', 'repeatable read'])(
    'race deletes of their messages at %s',
    async (isolation) => {
      const { pool, schema: s, queue, sluice, producer } = await scenario();
      const rounds = 60;
      await pool.query(`insert into ${s}.pgqrs_workflows (name, queue_id) values ('flow', ${queue.id})`);
      await (await producer()).ingest(numbered(rounds));
      const { rows } = await pool.query<{ id: string }>(`select id from ${s}.pgqrs_messages order by id`);
      const deleter = new pg.Client({
        connectionString: (await scenario()).url,
        options: `-c default_transaction_isolation=${isolation.replace(' ', '\\ ')}`,
      });
      await deleter.connect();
      const total = { made: 0, deleted: 0 };
      try {
        for (const { id } of rows) {
          const [made, deleted] = await Promise.allSettled([
            pool.query(
              `insert into ${s}.pgqrs_workflow_runs (workflow_id, message_id, status) select id, ${id}, 'QUEUED' from ${s}.pgqrs_workflows`,
            ),
            deleter.query(`delete from ${s}.pgqrs_messages where id = ${id}`),
          ]);
          // One of them wins, never both.
          expect([made.status, deleted.status].sort()).toEqual(['fulfilled', 'rejected']);
          if (made.status === 'fulfilled') total.made++;
          else total.deleted++;
        }
      } finally {
        await deleter.end();
      }
      expect(total.made + total.deleted).toBe(rounds);
      await sluice.admin.verify();
    },
  );
});

test.each(['pgqrs_queues', 'pgqrs_workers', 'pgqrs_messages'])('the ids of %s stay', async (table) => {
  const { pool, schema, producer } = await scenario();
  await (await producer()).ingest(numbered(1));
  await pool.query(`alter table ${schema}.pgqrs_workers alter column id set generated by default`);
  await expect(pool.query(`update ${schema}.${table} set id = id + 1`)).rejects.toMatchObject({
    code: '23503',
  });
});
