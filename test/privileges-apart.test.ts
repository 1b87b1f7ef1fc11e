import { expect, onTestFinished, test } from 'vitest';
import { freshSchema } from './support/database.js';
import { DEEDS } from './support/deeds.js';
import { asRole, type Block, connectAs, createRole, nameOf, privileges } from './support/roles.js';
import { scenario } from './support/scenario.js';

/* What the roles of docs/privileges.md cannot do. */

const LOADS: Block[] = ['producer', 'producer-keys', 'producer-backlog'];
const PRODUCES: Block[] = [...LOADS, 'producer-changes', 'producer-replay'];
const CONSUMES: Block[] = ['consumer', 'consumer-delete', 'consumer-retention'];

/** All that any worker may do: its own row cannot be told from those of others. */
const WORKERS = ['listWorkers', 'worker.heartbeat', 'worker.suspend', 'workerHealthStats', 'workerStats'];
const MESSAGES = [
  'reclaim',
  'releaseWorkerMessages',
  'workerMessages',
  'messages.list',
  'messages.count',
  'getMessage',
];

test.each<{ who: string; has: Block[]; tries: Block[]; may: string[] }>([
  { who: 'a producer, as a consumer', has: PRODUCES, tries: CONSUMES, may: ['find the queue', 'register'] },
  {
    who: 'a producer that changes nothing, as an admin',
    has: LOADS,
    tries: ['admin'],
    may: ['listQueues', 'listStreams', 'deleteStream', 'messages.count', ...WORKERS],
  },
  { who: 'a consumer, as a producer', has: CONSUMES, tries: LOADS, may: ['find the queue', 'register'] },
  {
    who: 'a consumer that only archives, as an admin',
    has: ['consumer'],
    tries: ['admin'],
    may: [
      ...['listQueues', 'queueSettings', 'deadLetters.list', 'archive.list', 'sweepExhausted'],
      ...['queueMetrics', 'allQueuesMetrics', ...WORKERS, ...MESSAGES],
    ],
  },
  {
    who: 'an admin, as a producer or a consumer',
    has: ['admin'],
    tries: [...PRODUCES, ...CONSUMES],
    may: ['find the queue'],
  },
])('$who: it is denied what it is not for', async ({ has, tries, may }) => {
  const test = await scenario();
  const { sluice } = await asRole(test, ...has);
  const done = new Set<string>();
  for (const [name, deed] of tries.flatMap((block) => Object.entries(DEEDS[block] ?? {}))) {
    const failure = await deed({ test, sluice }).then(
      () => undefined,
      (error: unknown) => error,
    );
    if (failure) expect(failure, name).toMatchObject({ code: 'PERMISSION_DENIED' });
    else done.add(name);
  }
  expect([...done].sort()).toEqual([...may].sort());
});

test.each([
  ['consumer', `insert into :schema.pgqrs_messages (queue_id, payload) values (1, '{}')`, '42501'],
  ['consumer', `update :schema.pgqrs_messages set payload = '{}'`, '42501'],
  ['consumer', 'delete from :schema.pgqrs_messages', '42501'],
  ['producer', 'select payload from :schema.pgqrs_messages', '42501'],
  ['producer', 'update :schema.pgqrs_messages set vt = now()', '42501'],
  ['producer', 'delete from :schema.pgqrs_messages', '42501'],
  ['admin', `insert into :schema.pgqrs_messages (queue_id, payload) values (1, '{}')`, '42501'],
  // It may update that only so that it can lock.
  ['admin', 'update :schema.pgqrs_queues set id = id + 1', '23503'],
] as const)('the role %s cannot do by SQL of its own either: %s', async (block, sql, sqlState) => {
  const test = await scenario();
  const role = await createRole(test);
  await role.may(privileges(block));
  const client = await test.pool.connect();
  try {
    await client.query(`set role ${role.name}`);
    await expect(client.query(sql.replace(':schema', test.schema))).rejects.toMatchObject({ code: sqlState });
  } finally {
    await client.query('reset role');
    client.release();
  }
});

test('the installer’s role installs, and the others work with what it owns', async () => {
  const fresh = freshSchema();
  onTestFinished(() => fresh.drop());
  await fresh.pool.query(`create schema ${fresh.schema}`);
  const installer = await createRole(fresh, 'installer');
  const all = privileges('installer');
  for (const one of all) {
    await installer.may(all.filter((other) => other !== one));
    const { admin } = await connectAs(fresh, installer);
    await expect(admin.install(), `without ${nameOf(one)}`).rejects.toMatchObject({
      code: 'PERMISSION_DENIED',
      message: expect.stringContaining(fresh.schema) as string,
    });
  }
  await installer.may(all);
  const { admin } = await connectAs(fresh, installer);
  await admin.install();
  await admin.verify();
  await admin.createQueue('work');

  const role = await createRole(fresh, 'app');
  await role.may([...privileges('producer'), ...privileges('consumer')]);
  const sluice = await connectAs(fresh, role);
  await (await sluice.producer('work')).enqueue({ n: 1 });
  const message = await (await sluice.consumer('work')).dequeue();
  expect(message?.payload).toEqual({ n: 1 });
  expect(await message?.archive()).toBe(true);
});

test('without CREATE on the database nobody installs into a schema that is not there', async () => {
  const fresh = freshSchema();
  onTestFinished(() => fresh.drop());
  const role = await createRole(fresh);
  const { admin } = await connectAs(fresh, role);
  await expect(admin.install()).rejects.toMatchObject({
    code: 'PERMISSION_DENIED',
    message: expect.stringContaining('GRANT CREATE ON DATABASE') as string,
  });
});
