import { once } from 'node:events';
import { describe, expect, onTestFinished, test } from 'vitest';
import { connect, type Message } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { startProxy } from '../support/proxy.js';
import { missing } from './pgbouncer.js';
import { pooled } from './pooled.js';

type Item = Message<{ n: number }>;

describe.skipIf(missing !== undefined)('notifications beside PgBouncer', () => {
  test('with a listenUrl a message arrives at once, however long the poll interval', async () => {
    const s = await pooled({ pollIntervalMs: 3_600_000 });
    const consumer = await s.consumer();
    let deaf = 0;
    consumer.on('deaf', () => deaf++);
    const listening = once(consumer, 'listening');
    const stream = consumer.messages<{ n: number }>();
    const messages = stream[Symbol.asyncIterator]();
    let next = messages.next();
    await within(10_000, 'listening', listening);
    const producer = await s.producer();
    for (let n = 0; n < 10; n++) {
      await producer.enqueue({ n });
      const { value } = (await within(5_000, `message ${n}`, next)) as { value: Item };
      expect(value.payload.n).toBe(n);
      await value.archive();
      next = messages.next();
    }
    expect(deaf).toBe(0);
  });

  test('without one it says once that it is deaf, and messages arrive by polling', async () => {
    const s = await pooled();
    // In front of the pooler, only to see what goes by.
    const proxy = await startProxy(s.pooler.url);
    let tries = 0;
    proxy.judge = ({ from, data }) => {
      if (from === 'client' && /listen sluice_probe_/i.test(data.toString('latin1'))) tries++;
      return 'pass';
    };
    const sluice = await connect({ dsn: proxy.url, schema: s.schema, pollIntervalMs: 50 });
    onTestFinished(async () => {
      await within(20_000, 'closing', sluice.close());
      await proxy[Symbol.asyncDispose]();
    });
    const consumer = await sluice.consumer('work');
    const events: string[] = [];
    consumer.on('deaf', () => events.push('deaf')).on('listening', () => events.push('listening'));
    const deaf = once(consumer, 'deaf');
    const got: number[] = [];
    const stream = consumer.messages<{ n: number }>();
    stream.on('data', (message: Item) => {
      got.push(message.payload.n);
      void message.archive();
    });
    const producer = await sluice.producer('work');
    await producer.enqueue({ n: 0 });
    await eventually('the message before', () => got.length === 1);
    await within(15_000, 'the deafness', deaf);
    await producer.enqueue({ n: 1 });
    await eventually('the message after', () => got.length === 2);
    await eventually('the end of a second try', () => tries >= 3, 40_000);
    expect(got).toEqual([0, 1]);
    expect(events).toEqual(['deaf']);
    stream.destroy();
  });
});
