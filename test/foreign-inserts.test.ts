import { expect, onTestFinished, test } from 'vitest';
import { channelOf } from '../src/doorbell.js';
import { connect, InvalidOptionError } from '../src/index.js';
import { freshSchema } from './support/database.js';
import { put } from './support/dead-messages.js';
import { eventually, within } from './support/eventually.js';
import { numbered, type Scenario, scenario } from './support/scenario.js';
import { spied } from './support/spied.js';

/** Tells what is notified on the queue's channel. */
async function listening({ pool, schema, queue }: Pick<Scenario, 'pool' | 'schema' | 'queue'>) {
  const client = await pool.connect();
  onTestFinished(() => client.release(true));
  const channel = channelOf(schema, queue.id);
  await client.query(`listen ${channel}`);
  const heard: string[] = [];
  client.on('notification', ({ payload }) => heard.push(payload ?? ''));
  /** All that was sent before. */
  const until = async (mark: string) => {
    await pool.query('select pg_notify($1, $2)', [channel, mark]);
    await eventually(mark, () => heard.includes(mark));
    return heard.splice(0);
  };
  return until;
}

test('with notifyForeign an insert of a foreign client wakes a consumer that would not poll for an hour', async () => {
  const here = await scenario();
  await here.sluice.admin.install({ notifyForeign: true });
  await here.sluice.admin.verify();
  const { sluice, count } = await spied(here, { pollIntervalMs: 3_600_000 });
  const consumer = await sluice.consumer('work');
  const got: unknown[] = [];
  const stop = new AbortController();
  const run = consumer.run((message) => void got.push(message.payload), { signal: stop.signal });
  // The first one may be found by a look that the beginning of listening causes.
  for (let n = 1, looks = 0; n <= 3; n++) {
    await eventually('the run waits', () => count('next_due') > looks);
    looks = count('next_due');
    await put(here, { count: 1 });
    await eventually(`message ${n}`, () => got.length === n);
  }
  stop.abort();
  await within(10_000, 'the run', run);
});

test('install() leaves it as it is, false takes it away, and verify() knows both', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  const heard = await listening(here);
  await put(here, { count: 1 });
  expect(await heard('before')).toEqual(['before']);
  for (const [options, rings] of [
    [{ notifyForeign: true }, true],
    [{}, true],
    [{ notifyForeign: false }, false],
    [undefined, false],
  ] as const) {
    await admin.install(options);
    await admin.verify();
    await put(here, { count: 3 }); // one notification for a transaction
    expect(await heard('mark')).toEqual(rings ? ['', 'mark'] : ['mark']);
  }
  await expect(admin.install({ notifyForeign: 'yes' as never })).rejects.toThrow(InvalidOptionError);
});

test('a schema whose name needs quotes rings on the same channel', async () => {
  const fresh = freshSchema();
  const schema = `Schlänge_$_${fresh.schema}`;
  const sluice = await connect({ dsn: fresh.url, schema });
  onTestFinished(async () => {
    await sluice.admin.uninstall();
    await sluice.close();
    await fresh.drop();
  });
  await sluice.admin.install({ notifyForeign: true });
  const queue = await sluice.admin.createQueue('work');
  const heard = await listening({ pool: fresh.pool, schema, queue });
  await put({ pool: fresh.pool, schema: `"${schema}"`, queue }, { count: 1 });
  expect(await heard('mark')).toEqual(['', 'mark']);
});

test('our own inserts do not come to the trigger that rings', async () => {
  const here = await scenario();
  await here.sluice.admin.install({ notifyForeign: true });
  // It would fail them.
  await here.pool.query(`create or replace function ${here.schema}.sluice_check_message() returns trigger
    language plpgsql as 'begin raise exception ''called''; end'`);
  const producer = await here.producer();
  await producer.enqueue(1);
  await producer.batchEnqueue([1, 2]);
  for (const method of ['copy', 'insert'] as const) await producer.ingest(numbered(3), { method });
  await expect(put(here, { count: 1 })).rejects.toThrow('called');
  expect(await here.count()).toBe(9);
});

const FOREIGN = {
  'was inserted without a vt': `insert into {m} (queue_id, payload, vt) values ({queue}, '1', null)`,
  'lost its vt': `insert into {m} (queue_id, payload, origin) values ({queue}, '1', 1); update {m} set vt = null`,
  'was given back without a vt': `insert into {m} (queue_id, payload, vt, consumer_worker_id) values ({queue}, '1', null, {worker});
    update {m} set consumer_worker_id = null`,
  'came back from the archive without a vt': `insert into {m} (queue_id, payload, vt, archived_at) values ({queue}, '1', null, now());
    update {m} set archived_at = null`,
};
for (const [what, sql] of Object.entries(FOREIGN)) {
  test(`a message that ${what} is delivered`, async () => {
    const here = await scenario();
    const consumer = await here.consumer();
    await here.pool.query(
      sql
        .replaceAll('{m}', `${here.schema}.pgqrs_messages`)
        .replaceAll('{queue}', here.queue.id)
        .replaceAll('{worker}', consumer.workerId),
    );
    expect((await consumer.dequeue())?.payload).toBe(1);
  });
}

test('one that was without a vt before there was a trigger is delivered after a look of the housekeeping', async () => {
  const here = await scenario();
  const { pool, schema } = here;
  await pool.query(`drop trigger sluice_check_insert on ${schema}.pgqrs_messages`);
  await put(here, { count: 2, columns: { vt: 'null' } });
  await here.sluice.admin.install();
  const consumer = await here.consumer({ housekeepingIntervalSeconds: 0.05 });
  const first = await eventually('a message', () => consumer.dequeue());
  const second = await eventually('another', () => consumer.dequeue());
  expect([first.payload, second.payload]).toEqual([{ n: 1 }, { n: 2 }]);
});

test('a foreign lease without an end stays one', async () => {
  const here = await scenario();
  const [id] = await put(here, { count: 1 });
  const { pool, schema } = here;
  await pool.query(`insert into ${schema}.pgqrs_workers (name, queue_id) values ('peer', ${here.queue.id})`);
  await pool.query(
    `update ${schema}.pgqrs_messages set vt = null, consumer_worker_id = (select id from ${schema}.pgqrs_workers)`,
  );
  await here.sluice.admin.sweepExhausted();
  const { rows } = await pool.query(`select id::text, vt from ${schema}.pgqrs_messages`);
  expect(rows).toEqual([{ id, vt: null }]);
});
