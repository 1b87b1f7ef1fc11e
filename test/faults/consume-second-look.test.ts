import { expect, onTestFinished, test } from 'vitest';
import { connect } from '../../src/index.js';
import { startProxy } from '../support/proxy.js';
import { numbered, scenario } from '../support/scenario.js';

test('a claim whose second look, before the floor, fails still brings what the first one has claimed', async () => {
  const s = await scenario();
  await (await s.producer()).ingest(numbered(6));
  const proxy = await startProxy(s.url);
  const sluice = await connect({ dsn: proxy.url, schema: s.schema });
  onTestFinished(async () => {
    await sluice.close().catch(() => undefined);
    await proxy[Symbol.asyncDispose]();
  });
  const consumer = await sluice.consumer('work');
  let claims = 0;
  proxy.judge = ({ from, data }) =>
    from === 'client' && data.includes('sluice:claim_messages') && ++claims === 3 ? 'cut' : 'pass';
  // Full, so that the next one begins behind it, comes back short, and looks again from the beginning.
  expect(await consumer.dequeueMany(2)).toHaveLength(2);
  expect(await consumer.dequeueMany(10)).toHaveLength(4);
  expect(claims).toBe(3);
});
