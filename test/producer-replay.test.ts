import { expect, test } from 'vitest';
import { ClosedError, InvalidOptionError, WorkerFencedError } from '../src/index.js';
import { channelOf } from '../src/doorbell.js';
import { failures, put, putDead } from './support/dead-messages.js';
import { eventually } from './support/eventually.js';
import { scenario } from './support/scenario.js';

test('a message that was done comes back as it was enqueued, and can be done again', async () => {
  const { sluice, producer, consumer } = await scenario();
  const ours = await producer();
  const { id, payload } = await ours.enqueue({ n: 1 });
  const theirs = await consumer();
  await (await theirs.dequeue())!.archive();
  const back = (await ours.replay(id))!;
  expect(back).toEqual(await sluice.admin.getMessage(id));
  expect(back).toMatchObject({
    id,
    payload,
    readCount: 0,
    dequeuedAt: null,
    archivedAt: null,
    producerWorkerId: ours.workerId,
    consumerWorkerId: null,
  });
  expect(back.vt).toEqual(back.enqueuedAt);
  expect(await ours.replay(id)).toBeUndefined(); // not archived any more
  const again = (await theirs.dequeue())!;
  expect(again).toMatchObject({ id, readCount: 1 });
  expect(await again.archive()).toBe(true);
});

test('a dead letter comes back without its failure', async () => {
  const here = await scenario();
  const [id, other] = await putDead(here, 2);
  expect(await (await here.producer()).replay(id!)).toMatchObject({ id, readCount: 0 });
  expect(await failures(here)).toEqual([other]);
  expect(await here.sluice.admin.deadLetters('work').count()).toBe(1);
});

test('only archived messages of its own queue come back', async () => {
  const here = await scenario();
  const ours = await here.producer();
  const queue = await here.sluice.admin.createQueue('other');
  const [other] = await putDead({ ...here, queue }, 1);
  const [active] = await put(here, { count: 1 });
  for (const id of [other!, active!, '999999']) expect(await ours.replay(id)).toBeUndefined();
  expect(await failures(here)).toEqual([other]);
  await expect(ours.replay('x')).rejects.toThrow(InvalidOptionError);
});

test('a replay rings the doorbell', async () => {
  const here = await scenario();
  const [id] = await putDead(here, 1);
  const ours = await here.producer();
  const client = await here.pool.connect();
  const heard: string[] = [];
  client.on('notification', ({ channel }) => heard.push(channel));
  const channel = channelOf(here.schema, here.queue.id);
  await client.query(`listen "${channel}"`);
  await ours.replay(id!);
  await eventually('a ring', () => heard.includes(channel));
  client.release(true);
});

test('a suspended producer may replay, as it may cancel; one that is fenced or closed may not', async () => {
  const here = await scenario();
  const [one, two] = await putDead(here, 2);
  const ours = await here.producer();
  await ours.suspend();
  expect(await ours.replay(one!)).toMatchObject({ id: one });
  await here.pool.query(
    `update ${here.schema}.pgqrs_workers set started_at = now() + interval '1 second' where id = ${ours.workerId}`,
  );
  await expect(ours.replay(two!)).rejects.toThrow(WorkerFencedError);
  const other = await here.producer();
  await other.close();
  await expect(other.replay(two!)).rejects.toThrow(ClosedError);
  expect(await failures(here)).toEqual([two]);
});
