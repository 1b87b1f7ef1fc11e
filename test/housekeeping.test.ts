import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { Db } from '../src/db.js';
import { Housekeeping, type HousekeepingOptions } from '../src/housekeeping.js';
import { failures, put, putDead } from './support/dead-messages.js';
import { eventually, within } from './support/eventually.js';
import { type Scenario, scenario } from './support/scenario.js';

/** Housekeeping of the queue, round after round, that tells its errors and the names of its statements. */
function housekeeping(
  here: Scenario,
  { user, ...options }: Partial<HousekeepingOptions> & { user?: string } = {},
) {
  const url = new URL(here.url);
  if (user) [url.username, url.password] = [user, 'role-pw'];
  const pool = new pg.Pool({ connectionString: url.href, max: 2 });
  pool.on('error', () => undefined);
  const statements: string[] = [];
  /** Those that did a step of a walk that is shared. */
  const turns: string[] = [];
  let held: Promise<void> | undefined;
  pool.on('connect', (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
    client.query = (async (...args: unknown[]) => {
      const answer = await query(...args);
      const name = /sluice:(\w+)/.exec(String(args[0]))?.[1];
      if (name) statements.push(name);
      if (name && (answer as pg.QueryResult<{ turn?: boolean }>).rows[0]?.turn) turns.push(name);
      if (name) await held;
      return answer;
    }) as unknown as typeof client.query;
  });
  const db = Db.over(pool, here.schema);
  const errors: Error[] = [];
  const keeper = new Housekeeping({
    ...{ db, queueId: here.queue.id, maxReadCount: 5, foreignLeases: 'stale', intervalSeconds: 0.02 },
    onError: (error) => errors.push(error),
    ...options,
  });
  onTestFinished(async () => {
    await keeper.stop();
    await db.close();
    await pool.end();
  });
  const count = (name: string) => statements.filter((found) => found === name).length;
  const rounds = async (more: number) => {
    const from = count('list_retention');
    await eventually(`${more} rounds`, () => count('list_retention') >= from + more);
  };
  const steps = () => turns.filter((name) => name === 'retain_archive').length;
  return { keeper, errors, statements, steps, count, rounds, hold: (until: Promise<void>) => (held = until) };
}

test('exhausted messages of the queue become dead letters, and not those of other queues', async () => {
  const here = await scenario();
  const queue = await here.sluice.admin.createQueue('other');
  const [id] = await put(here, { count: 1, columns: { read_ct: '5' } });
  await put({ ...here, queue }, { count: 1, columns: { read_ct: '5' } });
  const { rounds, errors } = housekeeping(here);
  await rounds(2);
  expect(await failures(here)).toEqual([id]);
  expect(errors).toEqual([]);
});

test('a round looks at the front of the index only, where exhausted messages are', async () => {
  const here = await scenario();
  await put(here, {
    count: 10_500,
    columns: { read_ct: `case when g <= 10 or g > 10490 then 5 else 0 end` },
  });
  const { rounds } = housekeeping(here);
  await rounds(3);
  expect(await failures(here)).toHaveLength(10);
});

test('what any queue has kept for long enough goes; done and dead each by their own time', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  const queue = await admin.createQueue('other');
  const forever = await admin.createQueue('forever');
  for (const of of [here.queue, queue, forever]) {
    await putDead({ ...here, queue: of }, 2, { age: `g * interval '1 hour' - interval '30 minutes'` });
    await put(
      { ...here, queue: of },
      { count: 3, columns: { archived_at: `now() - g * interval '1 hour' + interval '30 minutes'` } },
    );
  }
  await admin.setRetention('work', { archiveSeconds: 3_600 });
  await admin.setRetention('other', { deadLetterSeconds: 3_600 });
  const { rounds, errors } = housekeeping(here);
  await rounds(2);
  const left = async (name: string) => [
    await admin.archive(name).count(),
    await admin.deadLetters(name).count(),
  ];
  expect(await left('work')).toEqual([1, 2]);
  expect(await left('other')).toEqual([3, 1]);
  expect(await left('forever')).toEqual([3, 2]);
  expect(errors).toEqual([]);
});

test('much goes in chunks, a bounded number in each round, and the next round goes on behind what may not go', async () => {
  const here = await scenario();
  const { admin } = here.sluice;
  // Dead letters that are kept stand before what may go, and are more than a round looks at.
  await putDead(here, 105_000, { age: `interval '3 hours'` });
  await put(here, { count: 30_000, columns: { archived_at: `now() - interval '2 hours'` } });
  await admin.setRetention('work', { archiveSeconds: 3_600 });
  const { rounds, count, keeper } = housekeeping(here);
  await rounds(1);
  await eventually(
    'the archive to be empty',
    async () => (await admin.archive('work').count()) === 0,
    60_000,
  );
  await keeper.stop();
  expect(count('retain_archive')).toBeLessThanOrEqual(10 * (count('list_retention') + 1));
  expect(count('retain_archive')).toBeGreaterThanOrEqual(14);
  expect(await admin.deadLetters('work').count()).toBe(105_000);
}, 180_000);

/** Done messages that are kept for longer than any test lasts. */
async function keptFor(here: Scenario, seconds: number, count: number): Promise<void> {
  await put(here, { count, columns: { archived_at: 'now()' } });
  await here.sluice.admin.setRetention('work', { archiveSeconds: seconds });
}

test('processes share one walk over the archive: together they take the steps of one', async () => {
  const here = await scenario();
  await keptFor(here, 1_000_000, 125_000);
  const [one, other] = [housekeeping(here), housekeeping(here)];
  await eventually('the walk to end', () => one.steps() + other.steps() >= 13, 60_000);
  await Promise.all([one.rounds(3), other.rounds(3)]);
  expect(one.steps() + other.steps()).toBe(13);
  expect([...one.errors, ...other.errors]).toEqual([]);
}, 120_000);

test('a process goes on where the one before it has stopped', async () => {
  const here = await scenario();
  await keptFor(here, 1_000_000, 125_000);
  const first = housekeeping(here, { intervalSeconds: 3 });
  await eventually('a round of the first', () => first.steps() === 10, 60_000);
  await first.keeper.stop();
  const second = housekeeping(here);
  await eventually('the walk to end', () => second.steps() >= 3, 60_000);
  await second.rounds(3);
  expect(second.steps()).toBe(3);
}, 120_000);

test('a walk begins anew when the one before has rested for a hundredth of what is kept', async () => {
  const here = await scenario();
  await keptFor(here, 1, 1);
  const keeper = housekeeping(here);
  await eventually('the message to be deleted by a later walk', async () => (await here.count()) === 0);
  expect(keeper.steps()).toBeGreaterThanOrEqual(2);
  await keptFor(here, 100_000, 1);
  await keeper.rounds(2);
  const walked = keeper.steps();
  await keeper.rounds(5);
  expect(keeper.steps()).toBe(walked);
});

test('one process at a time deletes what is old; the others go on with the rest', async () => {
  const here = await scenario();
  await here.sluice.admin.setRetention('work', { archiveSeconds: 0, deadLetterSeconds: 0 });
  const client = await here.pool.connect();
  await client.query('begin');
  await client.query(
    `insert into ${here.schema}.sluice_walks (name) values ('archive'), ('dead letters of ' || ${here.queue.id})`,
  );
  await client.query('commit; begin');
  await client.query(`select from ${here.schema}.sluice_walks for update`);
  await put(here, { count: 1, columns: { archived_at: 'now()' } });
  const [exhausted] = await put(here, { count: 1, columns: { read_ct: '5' } });
  const { rounds, count, errors } = housekeeping(here);
  await rounds(3);
  expect(await failures(here)).toEqual([exhausted]);
  expect(count('retain_archive')).toBeGreaterThanOrEqual(2);
  expect(await here.count()).toBe(2);
  await client.query('rollback');
  client.release();
  await eventually('both to go', async () => (await here.count()) === 0);
  expect(errors).toEqual([]);
});

test('a role without DELETE is told so once, and again when it comes back; the sweep goes on', async () => {
  const here = await scenario();
  const { schema, pool } = here;
  const role = `${schema}_keeper`;
  await pool.query(`create role ${role} login password 'role-pw'`);
  await pool.query(`
    grant usage on schema ${schema} to ${role};
    grant select on all tables in schema ${schema} to ${role};
    grant update on ${schema}.pgqrs_messages to ${role};
    grant insert, update on ${schema}.sluice_failures, ${schema}.sluice_walks to ${role}`);
  onTestFinished(async () => {
    await pool.query(`drop owned by ${role}`);
    await pool.query(`drop role ${role}`);
  });
  await here.sluice.admin.setRetention('work', { archiveSeconds: 0, deadLetterSeconds: 0 });
  await here.sluice.admin.createQueue('other');
  await here.sluice.admin.setRetention('other', { archiveSeconds: 0 });
  const { rounds, errors, keeper } = housekeeping(here, { user: role });
  await rounds(3);
  expect(errors.map((error) => (error as { code?: string }).code)).toEqual(['PERMISSION_DENIED']);
  const [id] = await put(here, { count: 1, columns: { read_ct: '5' } });
  await eventually('the sweep', async () => (await failures(here)).includes(id!));
  await pool.query(`grant delete on ${schema}.pgqrs_messages to ${role}`);
  await eventually('the deletion', async () => (await here.count()) === 0);
  await rounds(2);
  await pool.query(`revoke delete on ${schema}.pgqrs_messages from ${role}`);
  await eventually('the second word', () => errors.length >= 2);
  await rounds(2);
  expect(errors).toHaveLength(2);
  await keeper.stop();
});

test('stop() waits for the statement that is under way, and begins no other', async () => {
  const here = await scenario();
  await here.sluice.admin.setRetention('work', { archiveSeconds: 0 });
  let goOn = () => {};
  const { keeper, statements, hold } = housekeeping(here);
  void hold(new Promise<void>((resolve) => (goOn = resolve)));
  await eventually('a statement', () => statements.length > 0);
  const before = statements.length;
  let stopped = false;
  const stopping = keeper.stop().then(() => (stopped = true));
  await here.count();
  expect(stopped).toBe(false);
  goOn();
  await within(10_000, 'stop()', stopping);
  await keeper.stop();
  expect(statements).toHaveLength(before);
});
