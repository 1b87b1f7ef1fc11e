/* A consumer in a process of its own, that may be frozen, killed, or told to end. Tells its parent what happens. */
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { connect, type Message, SluiceError } from '../../src/index.js';

export interface WorkerOrders {
  /** By `run()`, by `run()` in transactions, or by `messages()` and `archive()`. */
  by: 'run' | 'transaction' | 'messages';
  lockSeconds: number;
  concurrency: number;
  prefetch: number;
  /** Each handler tells `{ handling: n }` and goes on at its parent's word; otherwise it takes some ms. */
  gated?: boolean;
}

/** What it tells: that it is up, and waits for a word; the worker at the start, each message of a gated one, and at the end what has become of all. */
export interface WorkerNews {
  up?: true;
  worker?: string;
  handling?: number;
  /** What `archive()` has answered, or the summary of the run. */
  ended?: Record<string, unknown>;
}

const [, , url, schema, orders] = process.argv as [string, string, string, string, string];
const { by, lockSeconds, concurrency, prefetch, gated } = JSON.parse(orders) as WorkerOrders;
const MAX_MS = 10;

type Item = Message<{ n: number }>;
const tell = (news: WorkerNews) => new Promise<void>((resolve) => process.send?.(news, () => resolve()));

/** Connections of its own, which a test leaves alone. */
const notes = new pg.Pool({ connectionString: notesUrl(), max: concurrency });
const note = (
  table: string,
  { payload, consumerWorkerId, readCount }: Item,
  on: pg.Pool | pg.ClientBase = notes,
) => on.query(`insert into ${schema}.${table} values ($1, $2, $3)`, [payload.n, consumerWorkerId, readCount]);

const ending = new AbortController();
process.on('SIGTERM', () => ending.abort());
const orphaned = () => process.exit(1);
process.on('disconnect', orphaned);

const told = once(process, 'message');
await tell({ up: true });
await told;
const sluice = await evenIfCut(() =>
  connect({ dsn: url, schema, maxConnections: concurrency + 2, pollIntervalMs: 200 }),
);
const consumer = await evenIfCut(() => sluice.consumer('work', { maxReadCount: 1_000, lockSeconds }));
await tell({ worker: consumer.workerId });
const ended = by === 'messages' ? await byMessages() : await byRun();
await sluice.close();
await notes.end();
await tell({ ended });
process.off('disconnect', orphaned).disconnect();

/** At the start nothing of ours would try again. */
async function evenIfCut<T>(start: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await start();
    } catch (error) {
      if (!(error instanceof SluiceError && error.transient)) throw error;
    }
  }
}

async function work({ payload: { n } }: Item): Promise<void> {
  if (!gated) {
    await delay(Math.random() * MAX_MS);
    return;
  }
  const told = once(process, 'message');
  await tell({ handling: n });
  await told;
}

async function byRun(): Promise<Record<string, unknown>> {
  const noted: Promise<unknown>[] = [];
  consumer.on('leaseLost', (message) => noted.push(note('refused', message as Item)));
  const options = { concurrency, prefetch, signal: ending.signal };
  const summary =
    by === 'run'
      ? await consumer.run<{ n: number }>(async (message) => {
          await work(message);
          await note('effects', message);
        }, options)
      : await consumer.run<{ n: number }>(
          async (message, { client }) => {
            await work(message);
            await note('effects', message, client);
          },
          { ...options, transactional: true },
        );
  await Promise.all(noted);
  return { ...summary };
}

async function byMessages(): Promise<Record<string, unknown>> {
  const answers = { yes: 0, no: 0, unknown: 0 };
  const stream = consumer.messages<{ n: number }>({ prefetch });
  ending.signal.addEventListener('abort', () => stream.destroy());
  const iterator = stream[Symbol.asyncIterator]();
  const one = async () => {
    for (;;) {
      const next = (await iterator.next()) as IteratorResult<Item, undefined>;
      if (next.done === true) return;
      const message = next.value;
      await work(message);
      await note('effects', message);
      const answer = await message.archive().catch(() => undefined);
      answers[answer === undefined ? 'unknown' : answer ? 'yes' : 'no']++;
      if (answer !== undefined) await note(answer ? 'accepted' : 'refused', message);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, one));
  return answers;
}

function notesUrl(): string {
  const own = new URL(url);
  own.searchParams.set('application_name', 'notes');
  return own.href;
}
