// Long because it holds the whole life of a worker, from names and take-over to every way of ending.
import { once } from 'node:events';
import { hostname } from 'node:os';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import type { Queryable } from '../src/db.js';
import {
  connect,
  type ConsumerOptions,
  type Sluice,
  WorkerAlreadyActiveError,
  WorkerFencedError,
  type WorkerStatus,
} from '../src/index.js';
import { eventually, within } from './support/eventually.js';
import { startProxy } from './support/proxy.js';
import { numbered, scenario, type Scenario } from './support/scenario.js';
import { spied } from './support/spied.js';
import { row, setStatus, silence } from './support/worker-rows.js';

/** Another process, as far as the server can tell. */
async function another({ url, schema }: Scenario): Promise<Sluice> {
  const sluice = await connect({ dsn: url, schema });
  onTestFinished(() => sluice.close().catch(() => undefined));
  return sluice;
}

const NAMED: ConsumerOptions = { hostname: 'host', port: 3_000 };

test('a worker is registered as ready, with the name that its options make', async () => {
  const s = await scenario();
  const [anonymous, hosted, named] = [
    await s.consumer(),
    await s.producer({ hostname: 'elsewhere' }),
    await s.consumer(NAMED),
  ];
  expect(anonymous.workerName).toMatch(new RegExp(`^${hostname().replaceAll('.', '\\.')}-[0-9a-f-]{36}$`));
  expect(hosted.workerName).toMatch(/^elsewhere-[0-9a-f-]{36}$/);
  expect(named.workerName).toBe('host:3000');
  for (const worker of [anonymous, hosted, named]) {
    expect(worker.workerId).toMatch(/^[1-9]\d*$/);
    expect(await row(s, worker.workerId)).toMatchObject({
      name: worker.workerName,
      status: 'ready',
      stopped: false,
    });
    expect(await worker.status()).toBe('ready');
  }
});

test('ports, names and intervals are checked', async () => {
  const s = await scenario();
  for (const port of [0, 65_536, 1.5, -1]) {
    await expect(s.consumer({ port })).rejects.toThrow(
      `port must be a whole number from 1 to 65535, got ${port}`,
    );
  }
  await expect(s.consumer({ hostname: '' })).rejects.toThrow('hostname');
  await expect(s.consumer({ heartbeatIntervalSeconds: 0 })).rejects.toThrow('heartbeatIntervalSeconds');
  await expect(s.consumer({ heartbeatIntervalSeconds: 10, staleAfterSeconds: 29 })).rejects.toThrow(
    'staleAfterSeconds must be a number from 30 to 3153600000, got 29',
  );
  const { rows } = await s.pool.query(`select from ${s.schema}.pgqrs_workers`);
  expect(rows).toHaveLength(0);
});

test('a second live process with the same name is refused, whatever state the first is in', async () => {
  const s = await scenario();
  // No beat of its own that would make `interrupted` something else.
  const first = await s.consumer({ ...NAMED, heartbeatIntervalSeconds: 3_600 });
  const other = await another(s);
  for (const status of ['ready', 'polling', 'interrupted', 'suspended'] as const) {
    await setStatus(s, first.workerId, status);
    const words =
      status === 'suspended'
        ? 'worker "host:3000" is suspended. Use resume() to reactivate. Or stop it'
        : `worker "host:3000" is already registered and ${status}; stop it`;
    await expect(other.producer('work', NAMED)).rejects.toMatchObject({
      code: 'WORKER_ALREADY_ACTIVE',
      worker: 'host:3000',
      status,
      message: `${words}, wait until its heartbeat is stale, or choose another hostname or port`,
    });
  }
  await silence(s, first.workerId, 59);
  await expect(other.producer('work', NAMED)).rejects.toThrow(WorkerAlreadyActiveError);
});

test('of processes that race for a name exactly one wins', async () => {
  const s = await scenario({ maxConnections: 8 });
  for (let round = 0; round < 5; round++) {
    const racing = Array.from({ length: 8 }, () => s.consumer({ hostname: 'race', port: round + 1 }));
    const results = await Promise.allSettled(racing);
    const won = results.filter((result) => result.status === 'fulfilled');
    const lost = results.filter((result) => result.status === 'rejected');
    expect(won).toHaveLength(1);
    for (const { reason } of lost) expect(reason).toBeInstanceOf(WorkerAlreadyActiveError);
    // The same for a registration that has gone stale.
    await silence(s, won[0]!.value.workerId, 120);
    const again = await Promise.allSettled(
      Array.from({ length: 8 }, () => s.consumer({ hostname: 'race', port: round + 1 })),
    );
    expect(again.filter((result) => result.status === 'fulfilled')).toHaveLength(1);
  }
});

test('who has stopped gets the same id again', async () => {
  const s = await scenario();
  const first = await s.consumer(NAMED);
  await first.suspend();
  await first.shutdown();
  expect(await row(s, first.workerId)).toMatchObject({ status: 'stopped', stopped: true });
  const second = await s.producer(NAMED);
  expect(second.workerId).toBe(first.workerId);
  expect(await row(s, first.workerId)).toMatchObject({ status: 'ready', stopped: false });
});

test('a name that is given up while it is asked for is had at once', async () => {
  const s = await scenario();
  const first = await s.consumer(NAMED);
  const { sluice, answered } = await spied(s);
  // Refused; but before it can ask why, the other has stopped.
  answered('register_worker', () => first.close());
  const second = await sluice.consumer('work', NAMED);
  expect(second.workerId).toBe(first.workerId);
  expect(await second.status()).toBe('ready');
});

test('of processes that race for the name of one that has stopped exactly one gets its id', async () => {
  const s = await scenario({ maxConnections: 8 });
  let last = await s.consumer(NAMED);
  for (let round = 0; round < 5; round++) {
    const { workerId } = last;
    await last.suspend();
    await last.shutdown();
    const racing = await Promise.allSettled(Array.from({ length: 8 }, () => s.consumer(NAMED)));
    const won = racing.filter((result) => result.status === 'fulfilled');
    expect(won).toHaveLength(1);
    last = won[0]!.value;
    expect(last.workerId).toBe(workerId);
    expect(await last.status()).toBe('ready');
  }
});

test('a stale name is taken over with its id, and its former owner can do nothing more', async () => {
  const s = await scenario();
  const zombie = await s.producer({ ...NAMED, heartbeatIntervalSeconds: 3_600 });
  await zombie.ingest(numbered(1));
  await silence(s, zombie.workerId, 61);
  const heir = await (await another(s)).producer('work', NAMED);
  expect(heir.workerId).toBe(zombie.workerId);

  const fenced: Error[] = [];
  zombie.on('fenced', (error) => fenced.push(error));
  await expect(zombie.ingest(numbered(1))).rejects.toThrow(WorkerFencedError);
  await expect(zombie.suspend()).rejects.toThrow(WorkerFencedError);
  await expect(zombie.heartbeat()).rejects.toThrow(WorkerFencedError);
  await expect(zombie.resume()).rejects.toThrow(WorkerFencedError);
  await expect(zombie.shutdown()).rejects.toThrow(WorkerFencedError);
  await expect(zombie.status()).rejects.toThrow(WorkerFencedError);
  await expect(zombie.isHealthy({ minutes: 5 })).rejects.toThrow(WorkerFencedError);
  expect(() => zombie.writable()).toThrow(WorkerFencedError);
  await zombie.close();
  expect(fenced).toHaveLength(1);
  expect(fenced[0]).toMatchObject({ code: 'WORKER_FENCED', worker: 'host:3000' });
  expect(await heir.status()).toBe('ready');
  await heir.ingest(numbered(1));
});

test('the timer notices a take-over, and a deleted registration', async () => {
  const s = await scenario();
  const [taken, deleted] = [
    await s.consumer({ ...NAMED, heartbeatIntervalSeconds: 0.05 }),
    await s.consumer({ heartbeatIntervalSeconds: 0.05 }),
  ];
  const fenced = [once(taken, 'fenced'), once(deleted, 'fenced')];
  await s.pool.query(`update ${s.schema}.pgqrs_workers set started_at = clock_timestamp() where id = $1`, [
    taken.workerId,
  ]);
  await s.sluice.admin.deleteWorker(deleted.workerId);
  await within(5_000, 'both events', Promise.all(fenced));
  // Its timer beats no more.
  await silence(s, taken.workerId, 1_000);
  const alive = await s.consumer({ heartbeatIntervalSeconds: 0.05 });
  await silence(s, alive.workerId, 1_000);
  await eventually('a beat of the other', async () => (await row(s, alive.workerId))!.age < 1);
  expect((await row(s, taken.workerId))!.age).toBeGreaterThan(999);
});

test('the timer beats, and isHealthy() sees it', async () => {
  const s = await scenario();
  const worker = await s.consumer({ heartbeatIntervalSeconds: 0.05 });
  const lazy = await s.consumer();
  await silence(s, lazy.workerId, 100);
  for (let beat = 0; beat < 3; beat++) {
    await silence(s, worker.workerId, 1_000);
    await eventually('a beat', async () => (await row(s, worker.workerId))!.age < 1);
  }
  expect(await worker.isHealthy({ seconds: 5 })).toBe(true);
  expect(await lazy.isHealthy({ minutes: 2 })).toBe(true);
  expect(await lazy.isHealthy({ seconds: 99 })).toBe(false);
  await lazy.heartbeat();
  expect(await lazy.isHealthy({ seconds: 5 })).toBe(true);
  await silence(s, lazy.workerId, 1);
  expect(await lazy.isHealthy({ seconds: 0 })).toBe(false);
  await expect(lazy.isHealthy({ seconds: -1 })).rejects.toThrow('age');
});

test('a beat that fails is an event, and the next ones are tried until the server is back', async () => {
  const s = await scenario();
  const proxy = await startProxy(s.url);
  const sluice = await connect({ dsn: proxy.url, schema: s.schema });
  onTestFinished(async () => {
    await sluice.close();
    await proxy[Symbol.asyncDispose]();
  });
  const worker = await sluice.consumer('work', { heartbeatIntervalSeconds: 0.05 });
  const errors: Error[] = [];
  worker.on('heartbeatError', (error) => errors.push(error));
  proxy.door = 'shut';
  proxy.cutAll();
  await eventually('three failures', () => errors.length >= 3);
  expect(errors[0]).toMatchObject({ code: 'CONNECTION_FAILED' });
  // Known here, whether or not the server can be asked.
  await eventually('ill health', async () => !(await worker.isHealthy({ seconds: 0.05 })), 2_000);
  proxy.door = 'open';
  await silence(s, worker.workerId, 1_000);
  await eventually('a beat', async () => (await row(s, worker.workerId))!.age < 1);
});

test('a status that is changed elsewhere is an event, once for each change', async () => {
  const s = await scenario();
  const worker = await s.consumer({ heartbeatIntervalSeconds: 0.05 });
  const seen: WorkerStatus[] = [];
  worker.on('status', (status) => seen.push(status));
  for (const status of ['suspended', 'ready', 'stopped'] as const) {
    const event = once(worker, 'status');
    await setStatus(s, worker.workerId, status);
    expect(await within(5_000, status, event)).toEqual([status]);
  }
  expect(seen).toEqual(['suspended', 'ready', 'stopped']);
  await expect(worker.dequeue()).rejects.toMatchObject({ code: 'CLOSED' });
});

test('its own transitions are no event, though a beat may be answered before them', async () => {
  const s = await scenario();
  const worker = await s.consumer();
  const seen: WorkerStatus[] = [];
  worker.on('status', (status) => seen.push(status));
  const { urgent } = (worker as unknown as { db: { urgent: Queryable } }).db;
  const query = urgent.query.bind(urgent);
  let beat: Promise<void> | undefined;
  urgent.query = async <R>(text: string, values?: readonly unknown[]) => {
    const answer = await query<R>(text, values);
    if (!text.includes('sluice:move_worker')) return answer;
    // Time enough for the beat, unless it has to wait.
    beat = worker.heartbeat();
    await Promise.race([beat, new Promise((resolve) => setTimeout(resolve, 100))]);
    return answer;
  };
  await worker.suspend();
  await beat;
  await worker.resume();
  await beat;
  urgent.query = query;
  expect(seen).toEqual([]);
});

test('close() stops a worker from whatever state, and as often as one likes', async () => {
  const s = await scenario();
  for (const from of ['ready', 'polling', 'suspended', 'interrupted', 'stopped'] as const) {
    const worker = await s.producer({ heartbeatIntervalSeconds: 0.01 });
    await setStatus(s, worker.workerId, from);
    await Promise.all([worker.close(), worker.close()]);
    await worker.close();
    await worker[Symbol.asyncDispose]();
    expect(await row(s, worker.workerId)).toMatchObject({ status: 'stopped', stopped: from !== 'stopped' });
  }
  const down = await s.consumer();
  await down.suspend();
  await down.shutdown();
  await down.close();
  const gone = await s.consumer();
  await s.sluice.admin.deleteWorker(gone.workerId);
  await gone.close();
});

test('close() while the server is away says so in bounded time, and the rest is closed all the same', async () => {
  const s = await scenario();
  const proxy = await startProxy(s.url);
  const sluice = await connect({ dsn: proxy.url, schema: s.schema });
  const worker = await sluice.consumer('work');
  proxy.door = 'shut';
  proxy.cutAll();
  await expect(within(5_000, 'close', worker.close())).rejects.toMatchObject({ code: 'CONNECTION_FAILED' });
  await within(5_000, 'the rest', sluice.close());
  await proxy[Symbol.asyncDispose]();
});

test('no setting of the sessions garbles the incarnation', async () => {
  const s = await scenario();
  const settings = [
    'TimeZone=Asia/Kolkata',
    'TimeZone=America/St_Johns -c DateStyle=German',
    'TimeZone=UTC -c DateStyle=SQL,DMY',
    'DateStyle=Postgres,MDY -c extra_float_digits=-5',
  ];
  const url = (setting: string) => {
    const found = new URL(s.url);
    found.searchParams.set('options', `-c ${setting}`);
    return found.href;
  };
  await (await s.producer()).ingest(numbered(settings.length));
  for (const setting of settings) {
    const sluice = await connect({ dsn: url(setting), schema: s.schema });
    const worker = await sluice.consumer('work');
    await worker.heartbeat();
    expect(await worker.isHealthy({ seconds: 5 })).toBe(true);
    const message = (await worker.dequeue())!;
    expect(Math.abs(message.vt.getTime() - Date.now() - 30_000)).toBeLessThan(2_000);
    expect(Math.abs(message.enqueuedAt.getTime() - Date.now())).toBeLessThan(10_000);
    expect(await worker.archive(message.id)).toBe(true);
    await worker.suspend();
    await worker.shutdown();
    await sluice.close();
  }
});

test('registering sweeps the ledger rows of dead workers, and never those of live ones', async () => {
  const s = await scenario();
  const workers = await Promise.all(Array.from({ length: 4 }, () => s.producer()));
  const [live, late, stopped, dead] = workers.map(({ workerId }) => workerId) as [
    string,
    string,
    string,
    string,
  ];
  for (const [name, worker] of Object.entries({ live, late, stopped, dead, held: dead, named: null })) {
    await s.pool.query(
      `insert into ${s.schema}.sluice_streams (name, queue_id, worker_id) values ($1, $2, $3)`,
      [name, s.queue.id, worker],
    );
  }
  await silence(s, late, 2 * 3_600);
  await silence(s, dead, 2 * 86_400);
  await setStatus(s, stopped, 'stopped');
  const client = new pg.Client(s.url);
  await client.connect();
  await client.query('begin');
  await client.query(`select from ${s.schema}.sluice_streams where name = 'held' for update`);
  await within(5_000, 'registering', s.consumer());
  await client.query('rollback');
  await client.end();
  const { rows } = await s.pool.query<{ name: string }>(
    `select name from ${s.schema}.sluice_streams order by name`,
  );
  expect(rows.map(({ name }) => name)).toEqual(['held', 'late', 'live', 'named']);
});

test('a worker of a schema that was uninstalled meanwhile closes like any other', async () => {
  const { sluice, producer } = await scenario();
  const worker = await producer();
  await sluice.admin.uninstall();
  await within(10_000, 'close', worker.close());
  await within(10_000, 'close', sluice.close());
});
