import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { withBench } from '../harness/bench.js';
import { median, percentile } from '../harness/rounds.js';

/** How long after its commit does a message reach a consumer in another process that never polls? */
export async function latency({ rounds }: { rounds: number }): Promise<void> {
  await withBench('latency', async ({ sluice, url, schema, record }) => {
    await sluice.admin.createQueue('bench');
    const consumer = fork(
      fileURLToPath(new URL('./latency-consumer.ts', import.meta.url)),
      [url, schema, 'bench'],
      {
        execArgv: process.execArgv,
      },
    );
    try {
      await once(consumer, 'message'); // it listens
      const producer = await sluice.producer('bench');
      const stream = producer.writable({ lingerMs: 0 });
      const ms: number[] = [];
      for (let n = 0; n < rounds; n++) {
        const committed = once(stream, 'batch').then(() => performance.timeOrigin + performance.now());
        const received = once(consumer, 'message') as Promise<[{ at: number }]>;
        stream.write({ n });
        const [{ at }] = await received;
        ms.push(at - (await committed));
      }
      stream.end();
      await once(stream, 'close');
      const result = {
        messages: rounds,
        medianMs: median(ms),
        p95Ms: percentile(ms, 0.95),
        maxMs: Math.max(...ms),
      };
      console.log(
        `commit to receipt: median ${result.medianMs.toFixed(2)} ms, 95% ${result.p95Ms.toFixed(2)} ms, max ${result.maxMs.toFixed(2)} ms`,
      );
      await record(result);
    } finally {
      consumer.disconnect();
      await once(consumer, 'exit');
    }
  });
}
