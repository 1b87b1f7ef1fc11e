import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import type { CommittedBatch } from '../../streams/sink.js';
import { within } from '../support/eventually.js';
import { asRole, connectAs, createRole, nameOf, privileges } from '../support/roles.js';
import { numbered, type Scenario, scenario } from '../support/scenario.js';
import { numbers } from './support.js';

async function secureRows({ pool, schema }: Scenario, check = 'true'): Promise<void> {
  await pool.query(`alter table ${schema}.pgqrs_messages enable row level security`);
  await pool.query(`create policy all_in on ${schema}.pgqrs_messages for insert with check (${check})`);
}

test.each(['copy', 'insert'] as const)(
  'a role with a producer’s privileges and no more can load by %s',
  async (method) => {
    const test = await scenario();
    const { sluice } = await asRole(test, 'producer');
    const producer = await sluice.producer('work');
    await producer.ingest(numbered(500), { method, batchSize: 100, delaySeconds: 0 });
    await producer.ingest(numbered(500, 500), { method, delaySeconds: () => 0 });
    expect(await test.delivered()).toEqual(numbers(1_000));
    await producer.close();
  },
);

test('under row-level security auto falls back to insert, keeps the order and says so', async () => {
  const test = await scenario();
  const { sluice } = await asRole(test, 'producer');
  await secureRows(test);
  const stream = (await sluice.producer('work')).writable({ batchSize: 200, concurrency: 4 });
  const batches: CommittedBatch[] = [];
  stream.on('batch', (batch) => batches.push(batch));
  await pipeline(Readable.from(numbered(2_000)), stream);
  expect(batches.map(({ method }) => method)).toEqual(Array(10).fill('insert'));
  expect(stream.stats).toMatchObject({ committed: 2_000, retries: 0 });
  expect(await test.delivered()).toEqual(numbers(2_000));
});

test('under row-level security copy fails with a typed error, and nothing is written', async () => {
  const test = await scenario();
  const { sluice } = await asRole(test, 'producer');
  await secureRows(test);
  const producer = await sluice.producer('work');
  await expect(producer.ingest(numbered(500), { method: 'copy', batchSize: 200 })).rejects.toMatchObject({
    code: 'DATABASE_ERROR',
    sqlState: '0A000',
    progress: { committed: 0, position: '0' },
  });
  expect(await test.count()).toBe(0);
});

test('what refuses insert as it refuses copy ends the stream: it is not sent for ever', async () => {
  const test = await scenario();
  const { pool, schema: s } = test;
  await pool.query(`
    create function ${s}.refuse() returns trigger language plpgsql as $$
    begin raise exception 'not here' using errcode = '0A000'; end $$;
    create trigger refuse before insert on ${s}.pgqrs_messages for each row execute function ${s}.refuse()`);
  const loaded = (await test.producer()).ingest(numbered(500));
  await expect(within(10_000, 'the failure', loaded)).rejects.toMatchObject({ sqlState: '0A000' });
});

test('rows that a policy refuses fail as a missing privilege, and the batches before them stay', async () => {
  const test = await scenario();
  const { sluice } = await asRole(test, 'producer');
  await secureRows(test, `(payload->>'n')::int < 450`);
  const producer = await sluice.producer('work');
  await expect(producer.ingest(numbered(1_000), { batchSize: 100 })).rejects.toMatchObject({
    code: 'PERMISSION_DENIED',
    progress: { committed: 400, position: '400' },
  });
  expect(await test.delivered()).toEqual(numbers(400));
});

test.each(['insert (payload) pgqrs_messages', 'usage pgqrs_messages_id_seq', 'update (seq) sluice_streams'])(
  'without %s a stream gets a typed error that says what it may not touch, and nothing is written',
  async (missing) => {
    const test = await scenario();
    const role = await createRole(test);
    await role.may(privileges('producer').filter((one) => nameOf(one) !== missing));
    const producer = await (await connectAs(test, role)).producer('work');
    const failure = await producer.ingest(numbered(10)).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 'PERMISSION_DENIED', progress: { committed: 0 } });
    const object = missing.split(' ').at(-1);
    expect((failure as Error).message).toMatch(
      new RegExp(`permission denied for (table|sequence) ${object}`),
    );
    expect(await test.count()).toBe(0);
  },
);

test('a role that may not register, and a role that is read-only, learn it when they ask for a producer', async () => {
  const test = await scenario();
  const role = await createRole(test);
  await test.pool.query(
    `grant usage on schema ${test.schema} to ${role.name}; grant select on all tables in schema ${test.schema} to ${role.name}`,
  );
  const mayRead = await connectAs(test, role);
  await expect(mayRead.producer('work')).rejects.toMatchObject({ code: 'PERMISSION_DENIED' });

  await role.may(privileges('producer'));
  await test.pool.query(`alter role ${role.name} set default_transaction_read_only = on`);
  const readOnly = await connectAs(test, role);
  const refused = await readOnly.producer('work').catch((error: unknown) => error);
  expect(refused).toMatchObject({ code: 'PERMISSION_DENIED' });
  expect((refused as Error).message).toContain('read-only transaction');
  const { rows } = await test.pool.query(`select from ${test.schema}.pgqrs_workers`);
  expect(rows).toEqual([]);
});
