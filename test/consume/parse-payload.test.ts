import { expect, test } from 'vitest';
import type { Failure, Message } from '../../src/index.js';
import { eventually } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { dead, running, stored, summary } from './support.js';

/** As a client in another language writes it. */
const BEYOND = '{"n": 9007199254740993}';

async function insert({ pool, schema, queue }: Scenario, ...payloads: string[]): Promise<void> {
  for (const payload of payloads) {
    await pool.query(
      `insert into ${schema}.pgqrs_messages (queue_id, payload, vt) values ($1, $2::jsonb, now())`,
      [queue.id, payload],
    );
  }
}

const bigNumbers = (json: string): unknown => ({ n: BigInt(/\d+/.exec(json)![0]) });

test.each(['run', 'messages', 'dequeue'])('%s hands out what parsePayload makes of the text', async (way) => {
  const s = await scenario();
  await insert(s, BEYOND);
  const consumer = await s.consumer({ parsePayload: bigNumbers });
  const got: unknown[] = [];
  if (way === 'run') {
    const run = running(consumer, ({ payload }) => void got.push(payload));
    await eventually('the message', () => got.length === 1);
    await run.stop();
  } else if (way === 'messages') {
    for await (const { payload } of consumer.messages()) {
      got.push(payload);
      break;
    }
  } else got.push((await consumer.dequeue())?.payload);
  expect(got).toEqual([{ n: 9_007_199_254_740_993n }]);
});

test('the text itself can be had, and other consumers get what JSON.parse makes of it', async () => {
  const s = await scenario();
  await insert(s, BEYOND, BEYOND);
  const raw = await s.consumer({ parsePayload: (json) => json });
  const plain = await s.consumer();
  expect((await raw.dequeue())?.payload).toBe(BEYOND);
  expect((await plain.dequeue())?.payload).toEqual({ n: 9_007_199_254_740_992 });
});

test('a payload that cannot be parsed fails alone, again and again, and is a dead letter at last', async () => {
  const s = await scenario();
  await insert(s, '{"n": 1}', '{"n": 666}', '{"n": 3}');
  const refusing = (json: string): unknown => {
    if (json.includes('666')) throw new TypeError('not a number');
    return JSON.parse(json);
  };
  const consumer = await s.consumer({
    parsePayload: refusing,
    maxReadCount: 3,
    backoff: { baseSeconds: 0, maxSeconds: 0 },
    pollIntervalMs: 50,
  });
  const failures: Failure[] = [];
  consumer.on('failed', (failure) => failures.push(failure));
  const handled: number[] = [];
  const run = running(consumer, ({ payload }) => void handled.push(payload.n));
  await eventually('a dead letter', async () => (await dead(s)).length === 1);
  await eventually('its event', () => failures.some(({ deadReason }) => deadReason !== undefined));
  expect(await run.stop()).toEqual(summary({ done: 2 }));
  expect(handled.toSorted()).toEqual([1, 3]);
  expect(failures.map(({ deadReason, retrySeconds }) => [deadReason, retrySeconds])).toEqual([
    [undefined, 0],
    [undefined, 0],
    ['exhausted', undefined],
  ]);
  expect(failures[0]).toMatchObject({
    error: { message: 'not a number' },
    message: { payload: '{"n": 666}' },
  });
  expect((await dead(s))[0]).toMatchObject({ reason: 'exhausted', attempts: 3 });
  expect((await dead(s))[0]!.lastError).toContain('not a number');
  expect((await stored(s)).length).toBe(3);
});

test('by hand it fails alone too, and the others are handed out', async () => {
  const s = await scenario();
  await insert(s, '{"n": 1}', '{"n": 666}', '{"n": 3}');
  const consumer = await s.consumer({
    parsePayload: (json) => {
      if (json.includes('666')) throw new TypeError('not a number');
      return JSON.parse(json) as unknown;
    },
  });
  const got: Message[] = await consumer.dequeueMany(3);
  expect(got.map(({ payload }) => payload)).toEqual([{ n: 1 }, { n: 3 }]);
  await eventually('it is free again, after its back-off', async () => {
    const free = await stored(s).then((all) => all.filter(({ consumer: holder }) => holder === null));
    return free.length === 1 && free[0]!.due > 0;
  });
});

test('one that answers a Promise fails its message, and its rejection is nobody else’s', async () => {
  const s = await scenario();
  await insert(s, '{"n": 1}');
  const consumer = await s.consumer({
    maxReadCount: 1,
    parsePayload: () => Promise.reject(new Error('too late')),
  });
  expect(await consumer.dequeueMany(1)).toEqual([]);
  const [letter] = await eventually('a dead letter', async () => {
    const letters = await dead(s);
    return letters.length > 0 ? letters : undefined;
  });
  expect(letter!.lastError).toContain('parsePayload must be a function that answers at once');
});

test('what is no function is refused', async () => {
  const s = await scenario();
  await expect(s.consumer({ parsePayload: 'json' as never })).rejects.toThrow(
    'parsePayload must be a function',
  );
});
