import { type } from 'arktype';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import * as v from 'valibot';
import { expect, expectTypeOf, test } from 'vitest';
import { z } from 'zod';
import { Config, type Producer, Producer as ProducerClass, type StoredMessage } from '../src/index.js';
import { scenario } from './support/scenario.js';

interface Email {
  to: string;
  attempts: number;
}

const zodEmail = z.object({ to: z.email(), attempts: z.number().default(0) });
const valibotEmail = v.object({ to: v.pipe(v.string(), v.email()), attempts: v.optional(v.number(), 0) });
const arktypeEmail = type({ to: 'string.email', attempts: 'number = 0' });

const schemas = { zod: zodEmail, valibot: valibotEmail, arktype: arktypeEmail } as const;

for (const [name, schema] of Object.entries(schemas)) {
  test(`a schema of ${name} types the producer, and what it makes of a payload is what is stored`, async () => {
    const { sluice, pool, schema: tables } = await scenario();
    const producer = await sluice.producer('work', { schema });
    expectTypeOf(producer).toEqualTypeOf<Producer<{ to: string; attempts?: number | undefined }, Email>>();

    const message = await producer.enqueue({ to: 'a@example.com' });
    expectTypeOf(message).toEqualTypeOf<StoredMessage<Email>>();
    expect(message.payload).toEqual({ to: 'a@example.com', attempts: 0 });
    await producer.batchEnqueue([{ to: 'b@example.com', attempts: 2 }]);
    await producer.enqueueDelayed({ to: 'c@example.com' }, 60);
    await pipeline(Readable.from([{ to: 'd@example.com' }]), producer.writable());
    await producer.ingest([{ to: 'e@example.com' }]);

    const { rows } = await pool.query(`select payload from ${tables}.pgqrs_messages order by id`);
    expect(rows.map(({ payload }) => payload as Email)).toEqual([
      { to: 'a@example.com', attempts: 0 },
      { to: 'b@example.com', attempts: 2 },
      { to: 'c@example.com', attempts: 0 },
      { to: 'd@example.com', attempts: 0 },
      { to: 'e@example.com', attempts: 0 },
    ]);
  });

  test(`what a schema of ${name} refuses is not sent, and the error says where without quoting it`, async () => {
    const { sluice, count } = await scenario();
    const producer = await sluice.producer('work', { schema });
    const bad = { to: 'SECRET-not-an-address', attempts: 1 };
    const good = { to: 'a@example.com' };
    const single: unknown = await producer.enqueue(bad).catch((error: unknown) => error);
    expect(single).toMatchObject({ code: 'PAYLOAD_INVALID', index: undefined, issues: [{ path: 'to' }] });
    const batch: unknown = await producer.batchEnqueue([good, bad, good]).catch((error: unknown) => error);
    expect(batch).toMatchObject({ code: 'PAYLOAD_INVALID', index: 1 });
    const stream: unknown = await producer
      .ingest([good, bad], { batchSize: 10 })
      .catch((error: unknown) => error);
    expect(stream).toMatchObject({ code: 'PAYLOAD_INVALID', index: 1, progress: { committed: 0 } });
    for (const error of [single, batch, stream] as Error[]) expect(error.message).not.toContain('SECRET');
    expect(await count()).toBe(0);
  });
}

test('a schema that asks elsewhere is awaited, and calls that it lets pass are sent all the same', async () => {
  const { sluice, delivered } = await scenario();
  const schema = z.object({ n: z.number() }).refine(async ({ n }) => {
    await Promise.resolve();
    return n !== 2;
  });
  const producer = await sluice.producer('work', { schema });
  const settled = await Promise.allSettled([1, 2, 3].map((n) => producer.enqueue({ n })));
  expect(settled.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  await expect(producer.batchEnqueue([{ n: 4 }, { n: 2 }])).rejects.toMatchObject({ index: 1 });
  await producer.ingest([{ n: 5 }, { n: 6 }]);
  expect(await delivered()).toEqual([1, 3, 5, 6]);
});

test('a type alone types the producer; without one it takes anything', async () => {
  const { sluice, queue, url, schema, pool } = await scenario();
  const typed = await sluice.producer<Email>('work');
  expectTypeOf(typed).toEqualTypeOf<Producer<Email>>();
  expectTypeOf<Parameters<typeof typed.enqueue>[0]>().toEqualTypeOf<Email>();
  expectTypeOf<Parameters<typeof typed.batchEnqueue>[0]>().toEqualTypeOf<readonly Email[]>();
  expectTypeOf((await typed.enqueue({ to: 'x', attempts: 1 })).payload).toEqualTypeOf<Email>();

  const untyped = await sluice.producer('work');
  expectTypeOf(untyped).toEqualTypeOf<Producer>();
  expectTypeOf<Parameters<typeof untyped.enqueue>[0]>().toBeUnknown();

  const config = Config.fromDsnWithSchema(url, schema);
  const created = await ProducerClass.create({ pool, queue, config, schema: zodEmail });
  expectTypeOf<Parameters<typeof created.enqueue>[0]>().toEqualTypeOf<z.input<typeof zodEmail>>();
  await created.close();
  const plain = await ProducerClass.create<Email>({ pool, queue, config });
  expectTypeOf(plain).toEqualTypeOf<Producer<Email>>();
  await plain.close();
});

test('a producer for a type is refused items of another by the compiler', async () => {
  const { sluice } = await scenario();
  const producer = await sluice.producer<Email>('work');
  const misuse = () => {
    // @ts-expect-error -- attempts is missing
    void producer.enqueue({ to: 'x' });
    // @ts-expect-error -- not an Email
    void producer.ingest([1, 2, 3]);
    // @ts-expect-error -- not an Email
    producer.writable<{ other: string }>();
  };
  expect(misuse).toBeTypeOf('function');
});
