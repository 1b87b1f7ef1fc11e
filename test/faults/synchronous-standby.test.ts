import { once } from 'node:events';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, onTestFinished, test } from 'vitest';
import { deferred } from '../../src/deferred.js';
import { AmbiguousEnqueueError, connect, type Producer, type SluiceError } from '../../src/index.js';
import { numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { startProxy } from '../support/proxy.js';
import { type Node, promote, startPrimary, startReplica } from '../support/replica.js';
import { numbered } from '../support/scenario.js';

/* What a synchronous standby has not got is not committed, whatever the primary shows. */

const SCHEMA = 'standby';
const QUICK = { batchSize: 100, batchTimeoutMs: 400, retryBaseMs: 1, retryMaxMs: 20 } as const;

interface Pair {
  primary: Node;
  standby: Node;
  producer: Producer;
  /** From now on the standby gets nothing. */
  stall: () => void;
}

test.each([
  ['nobody touches them', undefined],
  ['they are cancelled', 'pg_cancel_backend'],
  ['they are terminated', 'pg_terminate_backend'],
])(
  'COMMITs wait for a standby that has stalled, %s, and the primary dies: what was reported is on the standby',
  async (_when, endsWait) => {
    const { primary, standby, producer, stall } = await pair();
    const stream = producer.writable({ ...QUICK, retries: 3 });
    let reported = 0;
    stream.on('batch', ({ rows }) => (reported += rows));
    const gate = deferred();
    const source = async function* () {
      yield* numbered(100);
      await gate.promise;
      yield* numbered(200, 100);
    };
    const loaded = pipeline(Readable.from(source()), stream).catch((error: unknown) => error as SluiceError);
    await within(15_000, 'the first batch', once(stream, 'batch'));
    stall();
    const interfering = endsWait && interfere(primary, endsWait, loaded);
    gate.resolve();
    const failure = await within(40_000, 'the failure', loaded);
    await interfering;
    await primary.kill();
    await promote(standby);

    const there = await loadedOn(standby);
    expect(there).toEqual(numbers(100));
    expect(reported).toBe(there.length);
    expect(stream.stats).toMatchObject({ committed: there.length, position: '100' });
    expect(failure).toMatchObject({ progress: { committed: there.length, position: '100', inDoubt: true } });
  },
);

test('a COMMIT that stopped waiting for the standby counts as unanswered, until the standby is back', async () => {
  const { primary, standby, producer } = await pair();
  const stream = producer.writable({ batchSize: 100, retryBaseMs: 1, retryMaxMs: 20 });
  await stream.resumeFrom;
  const [{ pid }] = (await standby.query<{ pid: number }>('select pid from pg_stat_wal_receiver')) as [
    { pid: number },
  ];
  process.kill(pid, 'SIGSTOP');
  // Or its server could not be stopped, if the test ends before its time.
  const goesOn = () => process.kill(pid, 'SIGCONT');
  let stopped = true;
  onTestFinished(() => {
    if (stopped) goesOn();
  });

  const enqueued = producer.enqueue({ plain: true }).catch((error: unknown) => error);
  await cancelWait(primary, 'sluice:enqueue ');
  expect(await within(10_000, 'the refusal', enqueued)).toBeInstanceOf(AmbiguousEnqueueError);

  const keyed = producer.enqueue({ keyed: true }, { dedupeKey: 'key' });
  await cancelWait(primary, 'sluice:enqueue_once');
  // It has been sent again, and waits again.
  await eventually('the next wait', () => waits(primary, 'sluice:enqueue_once'));

  const retried = once(stream, 'retry') as Promise<[{ seq: number; error: Error }]>;
  const loaded = pipeline(Readable.from(numbered(300)), stream);
  await cancelWait(primary, 'sluice_advance');
  const [{ seq, error }] = await within(10_000, 'the retry', retried);
  expect({ seq, error }).toMatchObject({ seq: 1, error: { sqlState: '08007' } });
  expect(stream.stats.committed).toBe(0);

  stopped = !goesOn();
  await within(20_000, 'the load', loaded);
  await within(10_000, 'the message', keyed);
  expect(stream.stats).toMatchObject({ committed: 300 });
  expect(stream.stats.resolved).toBeGreaterThanOrEqual(1);
  await primary.kill();
  await promote(standby);
  expect(await loadedOn(standby)).toEqual(numbers(300));
  expect(await standby.query(`select from ${SCHEMA}.pgqrs_messages where payload ? 'keyed'`)).toHaveLength(1);
});

/** A primary whose standby counts, and a producer that knows the primary alone. */
async function pair(): Promise<Pair> {
  const primary = await startPrimary();
  const proxy = await startProxy(primary.url);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  const standby = await startReplica({ ...primary, url: proxy.url }, 'standby');
  const sluice = await connect({ dsn: primary.url, schema: SCHEMA });
  onTestFinished(() => within(10_000, 'close()', sluice.close()).catch(() => undefined));
  await sluice.admin.install();
  await sluice.admin.createQueue('work');
  const producer = await sluice.producer('work');
  await primary.query(`alter system set synchronous_standby_names = 'standby'`);
  await primary.query('select pg_reload_conf()');
  await eventually('the standby counts', async () => {
    return (await primary.query(`select from pg_stat_replication where sync_state = 'sync'`)).length === 1;
  });
  const stall = () => {
    proxy.door = 'hole';
    for (const link of proxy.links) link.hole();
  };
  return { primary, standby, producer, stall };
}

/** Ends every wait for the standby, again and again, until `over` is. */
async function interfere(primary: Node, how: string, over: Promise<unknown>): Promise<void> {
  const state = { over: false };
  void over.then(() => (state.over = true));
  while (!state.over) {
    await primary.query(
      `select ${how}(pid) from pg_stat_activity, pg_sleep(0.02) where wait_event = 'SyncRep'`,
    );
  }
}

/** Tells a statement that waits for the standby to wait no longer, as soon as there is one. */
function cancelWait(primary: Node, statement: string): Promise<unknown> {
  return eventually(`${statement} to wait`, () => waits(primary, statement, 'pg_cancel_backend(pid)'));
}

async function waits(primary: Node, statement: string, act = 'pid'): Promise<boolean> {
  const found = await primary.query(
    `select ${act} from pg_stat_activity where wait_event = 'SyncRep' and strpos(query, $1) > 0`,
    [statement],
  );
  return found.length > 0;
}

async function loadedOn(node: Node): Promise<number[]> {
  const rows = await node.query<{ n: number }>(
    `select (payload->>'n')::int as n from ${SCHEMA}.pgqrs_messages where payload ? 'n' order by vt, id`,
  );
  return rows.map(({ n }) => n);
}
