import { expect, test } from 'vitest';
import { connect, InvalidOptionError, QueueNotFoundError } from '../src/index.js';
import { channelOf } from '../src/doorbell.js';
import { eventually } from './support/eventually.js';
import { scenario } from './support/scenario.js';

const NOTHING = { pausedAt: null, archiveSeconds: null, deadLetterSeconds: null };

test('a queue is paused since the first call, and runs again after the resumption, however often each is called', async () => {
  const { sluice } = await scenario();
  const { admin } = sluice;
  const paused = async () => (await admin.queueMetrics('work')).paused;
  expect(await admin.queueSettings('work')).toEqual(NOTHING);
  await admin.resumeQueue('work');
  expect(await paused()).toBe(false);
  await admin.pauseQueue('work');
  const { pausedAt } = await admin.queueSettings('work');
  expect(pausedAt).toBeInstanceOf(Date);
  await admin.pauseQueue('work');
  expect(await admin.queueSettings('work')).toEqual({ ...NOTHING, pausedAt });
  await admin.createQueue('other');
  expect((await admin.allQueuesMetrics()).map(({ queue, paused: is }) => [queue, is])).toEqual([
    ['other', false],
    ['work', true],
  ]);
  await admin.resumeQueue('work');
  await admin.resumeQueue('work');
  expect(await admin.queueSettings('work')).toEqual(NOTHING);
  expect(await paused()).toBe(false);
});

test('a resumption rings the doorbell', async () => {
  const { sluice, pool, schema, queue } = await scenario();
  const client = await pool.connect();
  const heard: string[] = [];
  client.on('notification', ({ channel }) => heard.push(channel));
  const channel = channelOf(schema, queue.id);
  await client.query(`listen "${channel}"`);
  await sluice.admin.pauseQueue('work');
  await sluice.admin.resumeQueue('work');
  await eventually('a ring', () => heard.includes(channel));
  client.release(true);
});

test('retention is set field by field; null takes it away, and what is left out stays', async () => {
  const { admin } = (await scenario()).sluice;
  await admin.pauseQueue('work');
  const { pausedAt } = await admin.queueSettings('work');
  await admin.setRetention('work', { archiveSeconds: 60 });
  expect(await admin.queueSettings('work')).toEqual({
    pausedAt,
    archiveSeconds: 60,
    deadLetterSeconds: null,
  });
  await admin.setRetention('work', { deadLetterSeconds: 0.5 });
  expect(await admin.queueSettings('work')).toEqual({ pausedAt, archiveSeconds: 60, deadLetterSeconds: 0.5 });
  await admin.setRetention('work', { archiveSeconds: null });
  expect(await admin.queueSettings('work')).toEqual({
    pausedAt,
    archiveSeconds: null,
    deadLetterSeconds: 0.5,
  });
  await admin.setRetention('work', {});
  expect((await admin.queueSettings('work')).deadLetterSeconds).toBe(0.5);
});

test('settings go with their queue, and a new one of the same name has none', async () => {
  const { admin } = (await scenario()).sluice;
  await admin.pauseQueue('work');
  await admin.deleteQueue('work');
  await admin.createQueue('work');
  expect(await admin.queueSettings('work')).toEqual(NOTHING);
});

test('an unknown queue and seconds that break the rule are refused', async () => {
  const { sluice, url, schema } = await scenario();
  const { admin } = sluice;
  for (const call of [
    () => admin.pauseQueue('nowhere'),
    () => admin.resumeQueue('nowhere'),
    () => admin.setRetention('nowhere', {}),
    () => admin.queueSettings('nowhere'),
  ])
    await expect(call()).rejects.toThrow(QueueNotFoundError);
  await expect(admin.setRetention('work', { archiveSeconds: -1 })).rejects.toThrow(
    'archiveSeconds must be a number from 0 to 3153600000, got -1',
  );
  await expect(admin.setRetention('work', { deadLetterSeconds: NaN })).rejects.toThrow(InvalidOptionError);
  await expect(admin.pauseQueue('no\0name')).rejects.toThrow(InvalidOptionError);
  // Another process sees the same.
  await using other = await connect({ dsn: url, schema });
  await admin.pauseQueue('work');
  expect((await other.admin.queueSettings('work')).pausedAt).toBeInstanceOf(Date);
});
