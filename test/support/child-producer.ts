/* A producer in a process of its own: what it does depends on the first argument. Tells its parent what happens. */
import { once } from 'node:events';
import { connect } from '../../src/index.js';

const [, , role, url, schema, ...more] = process.argv as [
  string,
  string,
  string,
  string,
  string,
  ...string[],
];
const tell = (message: unknown) => process.send?.(message);
/** What an error is known by. */
const codeOf = (error: unknown) => (error as { code?: string }).code ?? String(error);

const roles: Record<string, () => Promise<void>> = {
  /**
   * Registers as host:port, says so, and then enqueues and streams without a pause. Ends by itself as soon as all of
   * it has failed, and tells how: `{ enqueue, stream, fenced, unhandled }`.
   */
  'be that worker': async () => {
    const [port, staleAfterSeconds, mark] = more as [string, string, string];
    const stale = Number(staleAfterSeconds);
    const sluice = await connect({ dsn: url, schema });
    const options = {
      hostname: 'host',
      port: Number(port),
      heartbeatIntervalSeconds: stale / 3,
      staleAfterSeconds: stale,
    };
    const producer = await sluice.producer('work', options).catch(async (error: unknown) => {
      tell({ refused: codeOf(error) });
      await sluice.close();
      process.disconnect();
    });
    if (!producer) return;
    let fenced = 0;
    producer.on('fenced', () => fenced++);
    let unhandled = 0;
    process.on('unhandledRejection', () => unhandled++);
    tell({ workerId: producer.workerId });

    const stream = producer.writable({ batchSize: 20, lingerMs: 5 });
    stream.on('error', () => undefined);
    const streamFailed = new Promise((resolve) => stream.once('close', resolve)).then(() =>
      codeOf(stream.errored),
    );
    const writing = (async () => {
      for (let n = 0; !stream.destroyed; n++) {
        if (!stream.write({ n, mark, by: 'stream' })) {
          await Promise.race([once(stream, 'drain'), streamFailed]).catch(() => undefined);
        }
        if (n % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
      }
    })();
    const enqueueFailed = (async () => {
      for (let n = 0; ; n++) {
        try {
          await Promise.all([
            producer.enqueue({ n, mark, by: 'enqueue' }),
            producer.batchEnqueue([{ n, mark, by: 'batch' }, 0]),
          ]);
        } catch (error) {
          return codeOf(error);
        }
      }
    })();
    const ends = { enqueue: await enqueueFailed, stream: await streamFailed };
    await writing;
    const later = await producer.enqueue({ mark, by: 'too late' }).catch(codeOf);
    await sluice.close();
    tell({ ...ends, later, fenced, unhandled });
    process.disconnect();
  },
};

await roles[role]!();
