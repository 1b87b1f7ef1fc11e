import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { connect } from '../../src/index.js';
import { freshSchema } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { type Program, startProgram } from '../support/program.js';
import { createRole, privileges } from '../support/roles.js';

const PATH = 'examples/worker/main.ts';
/** As the program has them: handlers at work, and messages claimed ahead of them. */
const CONCURRENCY = 16;
const PREFETCH = 4;

interface Row {
  archived: boolean;
  held: boolean;
  due: boolean;
  readCount: number;
}

/** A schema with a queue, which holds these messages. */
async function stage(queue: string, payloads: readonly object[]) {
  const fresh = freshSchema();
  const { schema, pool } = fresh;
  onTestFinished(() => fresh.drop());
  await using sluice = await connect({ dsn: fresh.url, schema });
  await sluice.admin.install();
  await sluice.admin.createQueue(queue);
  const producer = await sluice.producer(queue);
  await producer.batchEnqueue(payloads);
  await sluice.admin.pool.query(
    `create table ${schema}.balances (account text primary key, cents bigint not null)`,
  );
  const url = new URL(fresh.url);
  url.searchParams.set('options', `-c search_path=${schema}`); // for the handlers' own tables
  const workers = `${schema}.pgqrs_workers where id <> ${producer.workerId}`;
  return {
    ...fresh,
    start: (env: NodeJS.ProcessEnv = {}): Program =>
      startProgram(PATH, { DATABASE_URL: url.href, PGQRS_SCHEMA: schema, QUEUE: queue, ...env }),
    rows: async () =>
      (
        await pool.query<Row>(
          `select archived_at is not null as archived, consumer_worker_id is not null and archived_at is null as held,
             vt <= now() as due, read_ct as "readCount" from ${schema}.pgqrs_messages order by id`,
        )
      ).rows,
    statuses: async () =>
      (await pool.query<{ status: string }>(`select status::text from ${workers}`)).rows.map(
        (row) => row.status,
      ),
  };
}

const DONE = { archived: true, readCount: 1 };
const UNTOUCHED: Row = { archived: false, held: false, due: true, readCount: 0 };

/** Takes webhooks, and answers them when it is told to, or at once. */
async function receiver(answer?: (request: IncomingMessage, response: ServerResponse) => void) {
  const open = new Set<ServerResponse>();
  let cut = 0;
  const server = createServer((request, response) => {
    if (answer) {
      answer(request, response);
      return;
    }
    open.add(response);
    response.once('close', () => {
      if (!response.writableFinished) cut++;
      open.delete(response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return {
    webhooks: (count: number) =>
      Array.from({ length: count }, (_, n) => ({ url: `http://127.0.0.1:${port}/${n}`, body: { n } })),
    /** Requests that wait for their answer. */
    open: () => open.size,
    /** Requests that were given up by who made them. */
    cut: () => cut,
    answerAll: () => {
      for (const response of open) response.writeHead(204).end();
    },
  };
}

async function atWork(s: Awaited<ReturnType<typeof stage>>, requests: () => number): Promise<void> {
  await eventually('all handlers are at work', () => requests() === CONCURRENCY, 30_000);
  const held = async () => (await s.rows()).filter((row) => row.held).length;
  await eventually('messages are claimed ahead', async () => (await held()) === CONCURRENCY + PREFETCH);
}

for (const signal of ['SIGTERM', 'SIGINT'] as const)
  test(`${signal}: handlers end what they are at, the rest goes back untouched, the worker stops, exit code 0`, async () => {
    const to = await receiver();
    const s = await stage('webhooks', to.webhooks(30));
    const program = s.start();
    await atWork(s, to.open);
    program.send(signal);
    await program.says(`${signal}: no new messages; handlers have 25 s to end`);
    await eventually('what waited is back', async () => (await s.rows())[CONCURRENCY]?.held === false);
    expect(program.running()).toBe(true);
    expect(to.open()).toBe(CONCURRENCY);
    to.answerAll();
    expect(await program.ended()).toEqual({ code: 0, signal: null });
    expect(program.out).toEqual([
      expect.stringMatching(/^Worker \S+ takes messages from "webhooks"; Ctrl-C ends it$/),
      `${signal}: no new messages; handlers have 25 s to end`,
      expect.stringMatching(/^Ended in order: 16 done, 0 to retry, 0 dead, 0 lost, 0 unfinished$/),
    ]);
    expect(program.err).toEqual([]);
    expect(await s.rows()).toMatchObject([
      ...Array<unknown>(CONCURRENCY).fill(DONE),
      ...Array<unknown>(30 - CONCURRENCY).fill(UNTOUCHED),
    ]);
    expect(await s.statuses()).toEqual(['stopped']);
  });

test('handlers that do not end in the time of a shutdown are cut off, and their messages are back at once', async () => {
  const to = await receiver();
  const s = await stage('webhooks', to.webhooks(30));
  const program = s.start({ SHUTDOWN_SECONDS: '0.3' });
  await atWork(s, to.open);
  program.send('SIGTERM');
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  await eventually('their requests were cut off', () => to.cut() === CONCURRENCY);
  expect(program.err).toEqual([]);
  expect(await s.rows()).toEqual([
    // Given back as if nothing had happened.
    ...Array<Row>(30).fill(UNTOUCHED),
  ]);
  expect(await s.statuses()).toEqual(['stopped']);
});

test('two signals at once, as Ctrl-C comes under npm, are one', async () => {
  const to = await receiver();
  const s = await stage('webhooks', to.webhooks(1));
  const program = s.start();
  await eventually('the handler is at work', () => to.open() === 1, 30_000);
  program.send('SIGINT');
  program.send('SIGTERM'); // two of a kind, unseen yet, would be one anyway
  await program.says('no new messages');
  to.answerAll();
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  expect(program.err).toEqual([]);
  expect(await s.rows()).toMatchObject([DONE]);
});

test('a second signal while it winds down ends it at once, and says so', async () => {
  const to = await receiver();
  const s = await stage('webhooks', to.webhooks(3));
  const program = s.start();
  await eventually('handlers are at work', () => to.open() === 3, 30_000);
  program.send('SIGTERM');
  await program.says('SIGTERM: no new messages');
  await eventually('it ends', () => {
    program.send('SIGTERM');
    return !program.running();
  });
  expect(await program.ended()).toEqual({ code: 1, signal: null });
  expect(program.err).toEqual([
    'SIGTERM again: ended at once; what was under way comes back when its lease is over',
  ]);
  expect(await s.rows()).toEqual(Array(3).fill({ archived: false, held: true, due: false, readCount: 1 }));
  expect(await s.statuses()).toEqual(['ready']); // which goes stale by itself
});

test('under a consumer’s role: what fails is told, tried again as the receiver wishes, or later each time, or becomes a dead letter', async () => {
  const answers = [{ status: 204 }, { status: 503, retryAfter: '7' }, { status: 500 }, { status: 410 }];
  const to = await receiver((request, response) => {
    const { status, retryAfter } = answers[Number(request.url?.slice(1))]!;
    response.writeHead(status, retryAfter === undefined ? {} : { 'retry-after': retryAfter }).end();
  });
  const s = await stage('webhooks', to.webhooks(4));
  const role = await createRole(s);
  await role.may(privileges('consumer'));
  const program = s.start({ DATABASE_URL: role.url });
  await eventually('all three have failed', () => program.err.length >= 3, 30_000);
  program.send('SIGTERM');
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  const told = program.err
    .map((line) => line.replace(/^message \d+, /, ''))
    .filter((line) => line.startsWith('delivery 1'));
  expect(told.sort()).toEqual([
    'delivery 1: DeadLetter: dead letter: the receiver answered 410; now a dead letter',
    expect.stringMatching(/^delivery 1: Error: the receiver answered 500; again in (0\.[5-9]|1\.0) s$/),
    'delivery 1: Error: the receiver answered 503; again in 7.0 s',
  ]);
  const { rows } = await s.pool.query(`select reason from ${s.schema}.sluice_failures`);
  expect(rows).toEqual([{ reason: 'the receiver answered 410' }]);
});

for (const { seconds, booked, left } of [
  { seconds: '25', booked: '100', left: [] },
  { seconds: '0.3', booked: '0', left: [UNTOUCHED] },
])
  test(`a transaction that is under way at SIGTERM, with ${seconds} s to end, and its message are settled together`, async () => {
    const s = await stage('payments', [{ account: 'rent', cents: 100 }]);
    await s.pool.query(`insert into ${s.schema}.balances values ('rent', 0)`);
    const holder = await s.pool.connect();
    onTestFinished(() => holder.release(true));
    await holder.query(`begin; select from ${s.schema}.balances for update`);
    const program = s.start({ SHUTDOWN_SECONDS: seconds });
    await eventually(
      'the handler waits for the balance',
      async () => {
        const text = `select from pg_stat_activity where wait_event_type = 'Lock' and query like '%insert into balances%'
          and pg_blocking_pids(pid) @> array[$1::int]`;
        return (
          (await s.pool.query(text, [(holder as unknown as { processID: number }).processID])).rows.length > 0
        );
      },
      30_000,
    );
    program.send('SIGTERM');
    await program.says('SIGTERM: no new messages');
    if (seconds === '0.3') await program.ended();
    await holder.query('rollback');
    expect(await program.ended()).toEqual({ code: 0, signal: null });
    const { rows } = await s.pool.query(`select cents from ${s.schema}.balances`);
    expect(rows).toEqual([{ cents: booked }]);
    expect(await s.rows()).toEqual(left);
    expect(await s.statuses()).toEqual(['stopped']);
  });

test('a signal before anything has begun ends it at once, with exit code 130', async () => {
  let connected = false;
  const silent = createTcpServer((socket) => {
    connected = true;
    socket.on('error', () => undefined);
  });
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void silent.close());
  const { port } = silent.address() as AddressInfo;
  const program = startProgram(PATH, { DATABASE_URL: `postgres://user:secret@127.0.0.1:${port}/db` });
  await eventually('it connects', () => connected, 30_000);
  program.send('SIGTERM');
  expect(await program.ended(5_000)).toEqual({ code: 130, signal: null });
  expect([...program.out, ...program.err]).toEqual([]);
});

test('a signal while it registers stops the worker as soon as it is there: it takes nothing', async () => {
  const s = await stage('webhooks', [{ url: 'http://127.0.0.1:1', body: 1 }]);
  const holder = await s.pool.connect();
  onTestFinished(() => holder.release(true));
  await holder.query(`begin; lock table ${s.schema}.pgqrs_workers in share mode`);
  const program = s.start();
  await eventually(
    'it registers',
    async () => {
      const text = `select from pg_stat_activity where wait_event_type = 'Lock' and query like '%' || $1 || '%'`;
      return (await s.pool.query(text, [`register_worker */%"${s.schema}"`])).rows.length > 0;
    },
    30_000,
  );
  program.send('SIGTERM');
  await program.says('SIGTERM: no new messages');
  await holder.query('rollback');
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  expect(program.err).toEqual([]);
  expect(await s.rows()).toEqual([UNTOUCHED]);
  expect(await s.statuses()).toEqual(['stopped']);
});

test('whoever reads its log goes away: it ends in order', async () => {
  const to = await receiver();
  const s = await stage('webhooks', to.webhooks(1));
  const program = s.start();
  await eventually('the handler is at work', () => to.open() === 1, 30_000);
  program.hangUp();
  program.send('SIGHUP');
  to.answerAll();
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  expect(await s.rows()).toMatchObject([DONE]);
  expect(await s.statuses()).toEqual(['stopped']);
});

test('what keeps it from working is one line, exit code 1', async () => {
  const s = await stage('webhooks', []);
  const unknown = s.start({ QUEUE: 'letters' });
  expect(await unknown.ended()).toEqual({ code: 1, signal: null });
  expect(unknown.err).toEqual(['Error: QUEUE must be webhooks or payments; got letters']);
  const missing = s.start({ QUEUE: 'payments' });
  expect(await missing.ended()).toEqual({ code: 1, signal: null });
  expect(missing.err).toEqual([
    expect.stringMatching(/^QueueNotFoundError: queue "payments" does not exist/),
  ]);
});

test('without a DATABASE_URL it has a server of its own, and messages to show what it does', async () => {
  const program = startProgram(PATH, {});
  await eventually(
    'one is a dead letter',
    () => program.err.some((line) => line.includes('now a dead letter')),
    60_000,
  );
  program.send('SIGINT');
  expect(await program.ended()).toEqual({ code: 0, signal: null });
  expect(program.out.at(-1)).toMatch(/^Ended in order: 2 done, [1-9]\d* to retry, 1 dead, 0 lost/);
});
