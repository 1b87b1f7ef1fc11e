import { expect, onTestFinished, test, vi } from 'vitest';
import { Admin, Config, Producer } from '../../src/index.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { foreignWorker, silence } from '../support/worker-rows.js';
import { DELAY, of, recorded, stored } from './producer-api.js';

async function workers({ pool, schema }: Scenario) {
  const { rows } = await pool.query<{ id: string; status: string }>(
    `select id::text, name, queue_id::text as "queueId", status::text, shutdown_at as "shutdownAt",
       started_at = heartbeat_at and started_at > now() - interval '10 seconds' as fresh
     from ${schema}.pgqrs_workers`,
  );
  return rows;
}

test('1: a producer is made of pool, queue, identity and configuration, and is one ready worker of that queue', async () => {
  const s = await scenario();
  const config = Config.fromDsnWithSchema(s.url, s.schema);
  const admin = await Admin.create(config);
  onTestFinished(() => admin.close());
  const queue = await admin.getQueue('work');
  expect(await workers(s)).toEqual([]);
  const { pool } = admin;
  const producer = await Producer.create({ pool, queue, config, hostname: 'my-service', port: 3_000 });
  expect(await workers(s)).toEqual([
    {
      id: producer.workerId,
      name: 'my-service:3000',
      queueId: queue.id,
      status: 'ready',
      shutdownAt: null,
      fresh: true,
    },
  ]);
  expect(producer.queue).toEqual(s.queue);
  await producer.close();
});

test('2: an identity is refused while it is active, and free again with the same id after suspend and shutdown', async () => {
  const s = await scenario();
  const identity = { hostname: 'my-service', port: 3_000 };
  const first = await s.producer(identity);
  const refused = { code: 'WORKER_ALREADY_ACTIVE', worker: 'my-service:3000' };
  await expect(s.producer(identity)).rejects.toMatchObject({ ...refused, status: 'ready' });
  await first.suspend();
  await expect(s.producer(identity)).rejects.toMatchObject({ ...refused, status: 'suspended' });
  await first.shutdown();
  const second = await s.producer(identity);
  expect(second.workerId).toBe(first.workerId);
  expect(await workers(s)).toMatchObject([{ id: first.workerId, status: 'ready', shutdownAt: null }]);
  // Another port is another identity.
  expect((await s.producer({ ...identity, port: 3_001 })).workerId).not.toBe(first.workerId);
});

test('2: an identity that has been silent for a minute is taken over with its id, and its former owner is fenced (deviation)', async () => {
  const s = await scenario();
  const identity = { hostname: 'my-service', port: 3_000 };
  const silent = await s.producer(identity);
  await silence(s, silent.workerId, 61);
  const heir = await s.producer(identity);
  expect(heir.workerId).toBe(silent.workerId);
  await expect(silent.enqueue(1)).rejects.toMatchObject({ code: 'WORKER_FENCED', worker: 'my-service:3000' });
  expect(await s.count()).toBe(0);
  await heir.enqueue(1);
  expect(await s.count()).toBe(1);
});

test('3: an unknown queue is QUEUE_NOT_FOUND, and no row is written', async () => {
  const s = await scenario();
  const unknown = { code: 'QUEUE_NOT_FOUND', queue: 'unknown' };
  await expect(s.sluice.producer('unknown')).rejects.toMatchObject(unknown);
  await expect(s.sluice.admin.getQueue('unknown')).rejects.toMatchObject(unknown);
  // Known once, and deleted since.
  await s.sluice.admin.deleteQueue('work');
  const config = Config.fromDsnWithSchema(s.url, s.schema);
  await expect(Producer.create({ pool: s.pool, queue: s.queue, config })).rejects.toMatchObject({
    code: 'QUEUE_NOT_FOUND',
    queue: 'work',
  });
  expect(await workers(s)).toEqual([]);
  expect(await s.sluice.admin.listQueues()).toEqual([]);
});

test('4: workerId is the id of the row, a positive integer in decimal digits (deviation)', async () => {
  const s = await scenario();
  const producer = await s.producer();
  expect(producer.workerId).toMatch(/^[1-9]\d*$/);
  expect((await workers(s)).map(({ id }) => id)).toEqual([producer.workerId]);
});

test('5: enqueue() returns the message as it is stored', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const payload = { action: 'send_email', to: 'üser@example.com', nested: { list: [1, null, 'x'] } };
  const message = await producer.enqueue(payload);
  expect(message).toEqual({
    id: expect.stringMatching(/^[1-9]\d*$/) as string,
    queueId: s.queue.id,
    payload,
    vt: message.enqueuedAt,
    enqueuedAt: expect.any(Date) as Date,
    readCount: 0,
    dequeuedAt: null,
    producerWorkerId: producer.workerId,
    consumerWorkerId: null,
    archivedAt: null,
  });
  expect(await stored(s)).toEqual([message]);
  expect(await s.sluice.admin.getMessage(message.id)).toEqual(message);
  expect(await of(s, message.id, 'vt <= now()')).toBe(true);
  expect(await of(s, message.id, DELAY)).toBe(0);
});

test('5: its times are the server’s, whatever the client’s clock says (deviation)', async () => {
  const s = await scenario();
  const [producer, consumer] = [await s.producer(), await s.consumer()];
  for (const clock of ['2001-01-01', '2101-01-01']) {
    vi.useFakeTimers({ toFake: ['Date'], now: new Date(clock) });
    onTestFinished(() => void vi.useRealTimers());
    const { id } = await producer.enqueue({ clock });
    expect(await of(s, id, `enqueued_at between now() - interval '1 minute' and now()`)).toBe(true);
    expect((await consumer.dequeue())?.id).toBe(id);
  }
});

test('6: a message is there at once for every consumer of its queue, ours or pgqrs’, and for none of another', async () => {
  const s = await scenario();
  const other = await s.sluice.admin.createQueue('other');
  const producer = await s.producer();
  const [ours, elsewhere] = [await s.consumer(), await s.sluice.consumer('other')];
  const foreigner = await foreignWorker(s, { name: 'pgqrs', queueId: s.queue.id });
  /** pgqrs 0.15.3's own statement; its clock is the client's. */
  const pgqrsDequeues = async (queueId: string) => {
    const { rows } = await s.pool.query<{ id: string }>(
      `update ${s.schema}.pgqrs_messages set vt = $1 + make_interval(secs => $2::double precision), read_ct = read_ct + 1,
         dequeued_at = coalesce(dequeued_at, $1), consumer_worker_id = $3
       where id in (
         select id from ${s.schema}.pgqrs_messages
         where queue_id = $4 and (vt is null or vt <= $1) and consumer_worker_id is null and archived_at is null
           and read_ct < $5
         order by enqueued_at asc limit $6 for update skip locked)
       returning id::text`,
      // Its clock has microseconds; ours, cut, would be behind the message's.
      [new Date(Date.now() + 1), 30, foreigner, queueId, 5, 10],
    );
    return rows.map(({ id }) => id);
  };

  const first = await producer.enqueue({ n: 1 });
  expect(await elsewhere.dequeueMany(10)).toEqual([]);
  expect((await ours.dequeueMany(10)).map(({ id }) => id)).toEqual([first.id]);
  const second = await producer.enqueue({ n: 2 });
  expect(await pgqrsDequeues(other.id)).toEqual([]);
  expect(await pgqrsDequeues(s.queue.id)).toEqual([second.id]);
});

test('7: every JSON value is a payload', async () => {
  const s = await scenario();
  const producer = await s.producer();
  const payloads = [
    {},
    [],
    null,
    true,
    false,
    0,
    -7.25,
    1e300,
    '',
    'text ✓ \\ "',
    { a: { b: [1, [2, {}]] } },
  ];
  for (const payload of payloads) expect((await producer.enqueue(payload)).payload).toEqual(payload);
  expect((await stored(s)).map(({ payload }) => payload)).toEqual(payloads);
  const { rows } = await s.pool.query<{ type: string }>(
    `select jsonb_typeof(payload) as type from ${s.schema}.pgqrs_messages order by id`,
  );
  const kinds = ['object', 'array', 'null', 'boolean', 'boolean', 'number', 'number', 'number', 'string'];
  expect(rows.map(({ type }) => type)).toEqual([...kinds, 'string', 'object']);
});

test('7: a message carries the payload that was given, and nothing is parsed for it', async () => {
  const s = await scenario();
  const producer = await s.producer();
  // V8 13.6 (Node 24) reads the last key of its own JSON as "\\".
  const keys = [{ '"': 2, 'a\u{1f600}"é': 0 }, { '"': 1 }, { '\t': 1, '"': 0 }];
  const at = new Date(0);
  const message = await producer.enqueue(keys);
  expect(message.payload).toBe(keys);
  const [first, second] = await producer.batchEnqueue([{ at, gone: undefined }, 'text']);
  expect(first!.payload).toEqual({ at, gone: undefined });
  expect(second!.payload).toBe('text');
  const { rows } = await s.pool.query<{ text: string }>(
    `select payload::text as text from ${s.schema}.pgqrs_messages order by id`,
  );
  expect(rows.map(({ text }) => text)).toEqual([
    '[{"\\"": 2, "a\u{1f600}\\"é": 0}, {"\\"": 1}, {"\\t": 1, "\\"": 0}]',
    '{"at": "1970-01-01T00:00:00.000Z"}',
    '"text"',
  ]);
});

test('8: an invalid payload is a typed error, and no row is written', async () => {
  const s = await scenario();
  const producer = await s.producer({ maxPayloadBytes: 100, requiredKeys: ['to'] });
  const circular: { to: string; self?: unknown } = { to: 'x' };
  circular.self = circular;
  const invalid: [payload: unknown, reason: string][] = [
    [undefined, 'undefined, functions and symbols have no JSON form'],
    [() => 1, 'undefined, functions and symbols have no JSON form'],
    [circular, 'Converting circular structure to JSON'],
    [
      { to: 1n },
      'a bigint has no JSON form: give it as a string, as JSON.rawJSON(String(value)) where there is that, or give BigInt.prototype a toJSON()',
    ],
    [{ to: { constructor: 1 } }, "Forbidden key 'constructor' found in payload"],
    [{ from: 'x' }, "Required key 'to' missing from payload"],
  ];
  for (const [payload, reason] of invalid) {
    await expect(producer.enqueue(payload)).rejects.toMatchObject({
      code: 'PAYLOAD_INVALID',
      index: undefined,
      reason,
    });
  }
  await expect(producer.enqueue({ to: 'x'.repeat(92) })).rejects.toMatchObject({
    code: 'PAYLOAD_TOO_LARGE',
    index: undefined,
    actualBytes: 101,
    maxBytes: 100,
  });
  expect(await s.count()).toBe(0);
  await producer.enqueue({ to: 'x'.repeat(91) });
  expect(await s.count()).toBe(1);
});

test('8: text that jsonb cannot store is refused before anything is sent (deviation)', async () => {
  const s = await scenario();
  const { sluice, statements } = await recorded(s);
  const producer = await sluice.producer('work');
  statements();
  for (const payload of ['a\0b', '\ud800', { ['key\0']: 1 }, [['\udfff']]]) {
    await expect(producer.enqueue(payload)).rejects.toMatchObject({
      code: 'PAYLOAD_INVALID',
      reason: 'jsonb stores neither NUL characters (\\u0000) nor lone surrogates',
    });
  }
  expect(statements()).toEqual([]);
  const { payload } = await producer.enqueue('\ud83d\ude00 \\u0000');
  expect((await stored(s)).map((row) => row.payload)).toEqual([payload]);
});
