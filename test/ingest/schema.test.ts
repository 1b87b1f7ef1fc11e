import { setImmediate as tick } from 'node:timers/promises';
import { inspect } from 'node:util';
import { type } from 'arktype';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { deferred } from '../../src/deferred.js';
import type { PayloadInvalidError } from '../../src/index.js';
import { eventually } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';
import { closed, counted, expectNothingLeft, numbers } from './support.js';

interface Item {
  n: number;
  text: string;
}

const later = async (text: string) => {
  await tick();
  return !text.includes('secret');
};

/** Each makes `{ n, seen: true }` of an item, and refuses those with a secret. */
const SCHEMAS = {
  zod: z
    .object({ n: z.number(), text: z.string().refine((text) => !text.includes('secret')) })
    .transform(({ n }) => ({ n, seen: true })),
  'zod, asynchronous': z
    .object({ n: z.number(), text: z.string().refine(later) })
    .transform(({ n }) => ({ n, seen: true })),
  valibot: v.pipe(
    v.object({
      n: v.number(),
      text: v.pipe(
        v.string(),
        v.check((text) => !text.includes('secret')),
      ),
    }),
    v.transform(({ n }) => ({ n, seen: true })),
  ),
  'valibot, asynchronous': v.pipeAsync(
    v.objectAsync({ n: v.number(), text: v.pipeAsync(v.string(), v.checkAsync(later)) }),
    v.transform(({ n }) => ({ n, seen: true })),
  ),
  arktype: type({ n: 'number', text: type('string').narrow((text) => !text.includes('secret')) }).pipe(
    ({ n }) => ({ n, seen: true }),
  ),
};

const items = (count: number): Item[] => numbers(count).map((n) => ({ n, text: `item ${n}` }));

async function payloads({ pool, schema }: Scenario): Promise<unknown[]> {
  const { rows } = await pool.query<{ payload: unknown }>(
    `select payload from ${schema}.pgqrs_messages order by vt, id`,
  );
  return rows.map(({ payload }) => payload);
}

describe.each(Object.keys(SCHEMAS) as (keyof typeof SCHEMAS)[])('%s', (library) => {
  test('what the schema makes of an item is stored, in order', async () => {
    const test = await scenario();
    const producer = await test.sluice.producer<Item, unknown>('work', { schema: SCHEMAS[library] });
    const summary = await producer.ingest(items(500), { batchSize: 70 });
    expect(summary).toMatchObject({ accepted: 500, committed: 500, batches: 8 });
    expect(await payloads(test)).toEqual(numbers(500).map((n) => ({ n, seen: true })));
    await expectNothingLeft(test);
  });

  test('an item that it refuses fails at its index; earlier whole batches stay', async () => {
    const test = await scenario();
    const producer = await test.sluice.producer<Item, unknown>('work', { schema: SCHEMAS[library] });
    const source = [...items(25), { n: 25, text: 'secret' }, ...items(10)];
    const failure: unknown = await producer
      .ingest(source, { batchSize: 10 })
      .catch((error: unknown) => error);
    expect(failure).toMatchObject({
      code: 'PAYLOAD_INVALID',
      index: 25,
      reason: 'the schema refuses it at text (1 issue; see error.issues)',
      progress: { committed: 20, position: '20' },
    });
    expect((failure as PayloadInvalidError).issues).toMatchObject([{ path: 'text' }]);
    expect(inspect(failure, { depth: 9, showHidden: true })).not.toContain('secret');
    expect(await test.delivered()).toEqual(numbers(20));
    await expectNothingLeft(test);
  });
});

test('delaySeconds sees the item, the table what the schema made of it', async () => {
  const test = await scenario();
  const producer = await test.sluice.producer('work', { schema: SCHEMAS.zod });
  const seen: Item[] = [];
  const delaySeconds = (item: Item) => {
    seen.push(item);
    return item.n;
  };
  await producer.ingest(items(3), { delaySeconds });
  expect(seen).toEqual(items(3));
  expect(await payloads(test)).toEqual(numbers(3).map((n) => ({ n, seen: true })));
});

test('rules apply to what the schema makes of an item', async () => {
  const test = await scenario();
  const schema = z.number().transform((n) => (n === 2 ? { constructor: n } : { n }));
  const producer = await test.sluice.producer('work', { schema });
  await expect(producer.ingest(numbers(5), { batchSize: 1 })).rejects.toMatchObject({
    index: 2,
    reason: "Forbidden key 'constructor' found in payload",
    progress: { committed: 2 },
  });
  expect(await test.delivered()).toEqual([0, 1]);
});

test.each(['destroy', 'abort', 'close'] as const)('%s while an item is validated', async (how) => {
  const test = await scenario();
  const slow = deferred<boolean>();
  const schema = z.object({ n: z.number() }).refine(({ n }) => (n === 12 ? slow.promise : true));
  const producer = await test.sluice.producer('work', { schema });
  const abort = new AbortController();
  const stream = producer.writable({ batchSize: 10, lingerMs: 1, signal: abort.signal });
  const events = counted(stream);
  for (const n of numbers(20)) stream.write({ n });
  await eventually('what came before', () => stream.stats.committed === 12);
  if (how === 'destroy') stream.destroy();
  else if (how === 'abort') abort.abort();
  const closing = how === 'close' ? producer.close() : undefined;
  await closed(stream);
  slow.resolve(true);
  await closing;
  for (let i = 0; i < 20; i++) await tick();
  expect(events).toMatchObject({ finish: 0, close: 1, error: how === 'destroy' ? 0 : 1 });
  expect(await test.delivered()).toEqual(numbers(12));
  await expectNothingLeft(test);
});

test('what is no schema is refused before anything is sent', async () => {
  const test = await scenario();
  await expect(test.sluice.producer('work', { schema: {} as never })).rejects.toMatchObject({
    code: 'INVALID_OPTION',
    field: 'schema',
  });
});
