import { expect, test } from 'vitest';
import {
  Admin,
  Config,
  ConnectionError,
  InvalidOptionError,
  QueueNotFoundError,
  WorkerHandle,
} from '../src/index.js';
import { numbered, scenario } from './support/scenario.js';

const NO_IDS = ['', '0', '-1', '1.5', 'x', '9223372036854775808', 1.5];

test('a message is found by its id in whatever state and queue, with every column', async () => {
  const { sluice, queue, producer, consumer } = await scenario();
  const ours = await producer();
  const [item] = numbered(1);
  await ours.ingest([item], { delaySeconds: 0 });
  const holder = await consumer();
  const message = (await holder.dequeue())!;
  const leased = (await sluice.admin.getMessage(message.id))!;
  expect(leased).toEqual({
    id: message.id,
    queueId: queue.id,
    payload: item,
    vt: message.vt,
    enqueuedAt: message.enqueuedAt,
    readCount: 1,
    dequeuedAt: message.dequeuedAt,
    producerWorkerId: ours.workerId,
    consumerWorkerId: holder.workerId,
    archivedAt: null,
  });
  await message.archive();
  const { archivedAt, ...rest } = (await sluice.admin.getMessage<typeof item>(message.id))!;
  expect({ ...rest, archivedAt: null }).toEqual(leased);
  expect(archivedAt!.getTime()).toBeGreaterThanOrEqual(message.dequeuedAt!.getTime());
  await sluice.admin.purgeQueue('work');
  expect(await sluice.admin.getMessage(message.id)).toBeUndefined();
});

test.each([[null], [true], [0], ['text'], [[1, { two: 3 }]], [{ ünïcode: '✓', deep: { null: null } }]])(
  'a payload comes back as it was: %j',
  async (payload) => {
    const { sluice, pool, schema, queue } = await scenario();
    const { rows } = await pool.query<{ id: string }>(
      `insert into ${schema}.pgqrs_messages (queue_id, payload) values (${queue.id}, $1) returning id::text`,
      [JSON.stringify(payload)],
    );
    expect((await sluice.admin.getMessage(rows[0]!.id))!.payload).toEqual(payload);
  },
);

test('a message of a foreign client is found even where the columns allow more than clients write', async () => {
  const { sluice, pool, schema, queue } = await scenario();
  const { rows } = await pool.query<{ id: string }>(`
    insert into ${schema}.pgqrs_messages (queue_id, payload, vt, enqueued_at, read_ct) values
      (${queue.id}, '{}', null, '2020-01-01T00:00:00.123999Z', null),
      (${queue.id}, '{}', '2020-01-01T00:00:00.123999Z', null, 2) returning id::text`);
  const time = new Date('2020-01-01T00:00:00.123Z');
  for (const [index, readCount] of [0, 2].entries())
    expect(await sluice.admin.getMessage(rows[index]!.id)).toEqual({
      id: rows[index]!.id,
      queueId: queue.id,
      payload: {},
      vt: time,
      enqueuedAt: time,
      readCount,
      dequeuedAt: null,
      producerWorkerId: null,
      consumerWorkerId: null,
      archivedAt: null,
    });
});

test('an id that cannot be one is refused, one that nobody has is not found', async () => {
  const { admin } = (await scenario()).sluice;
  expect(await admin.getMessage('9223372036854775807')).toBeUndefined();
  for (const id of NO_IDS) {
    await expect(admin.getMessage(id)).rejects.toThrow(InvalidOptionError);
    expect(() => admin.worker(id)).toThrow(InvalidOptionError);
  }
});

test('workers are listed, all or those of one queue', async () => {
  const { sluice, pool, schema, producer, consumer, queue } = await scenario();
  const { admin } = sluice;
  expect(await admin.listWorkers()).toEqual([]);
  const other = await admin.createQueue('other');
  const ours = [await producer(), await consumer()];
  const elsewhere = await sluice.consumer('other');
  await pool.query(
    `insert into ${schema}.pgqrs_workers (name, status, shutdown_at) values ('admin', 'stopped', now())`,
  );

  const all = await admin.listWorkers();
  expect(all).toHaveLength(4);
  expect(all.find(({ name }) => name === 'admin')).toMatchObject({
    queueId: null,
    status: 'stopped',
    shutdownAt: expect.any(Date) as Date,
  });
  const some = await admin.listWorkers({ queue: 'work' });
  expect(some.map(({ id }) => id).sort()).toEqual(ours.map(({ workerId }) => workerId).sort());
  for (const worker of some) {
    expect(worker).toMatchObject({ queueId: queue.id, status: 'ready', shutdownAt: null });
    expect(Math.abs(worker.startedAt.getTime() - Date.now())).toBeLessThan(60_000);
    expect(worker.heartbeatAt.getTime()).toBeGreaterThanOrEqual(worker.startedAt.getTime());
  }
  expect(await admin.listWorkers({ queue: 'other' })).toMatchObject([
    { id: elsewhere.workerId, name: elsewhere.workerName, queueId: other.id },
  ]);
  await expect(admin.listWorkers({ queue: 'nowhere' })).rejects.toThrow(QueueNotFoundError);
  await expect(admin.listWorkers({ queue: 'no\0name' })).rejects.toThrow(InvalidOptionError);
});

test('a handle connects to nothing until it is used, and then moves its worker', async () => {
  const { sluice, consumer } = await scenario();
  await using unreachable = await Admin.create(Config.fromDsn('postgresql://127.0.0.1:1/nowhere'));
  const nowhere = unreachable.worker('1');
  expect(nowhere).toBeInstanceOf(WorkerHandle);
  await expect(nowhere.status()).rejects.toThrow(ConnectionError);

  const ours = await consumer();
  await sluice.admin.worker(ours.workerId).suspend();
  expect(await ours.status()).toBe('suspended');
});
