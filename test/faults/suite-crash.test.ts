import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { once } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { connect } from '../../src/index.js';
import { eventually, within } from '../support/eventually.js';
import { type Node, startPrimary } from '../support/replica.js';
import { type Link, saysCommitted, startProxy } from '../support/proxy.js';
import { numbered } from '../support/scenario.js';
import { expectFlawless, FULL, report } from '../support/total-queue.js';

const SCHEMA = 'crash_reuse';
const CRASHES = FULL ? 5 : 1;
const BATCH_SIZE = 100;
/** Of each round: batches before the doomed one and behind it. */
const BATCHES = FULL ? 200 : 40;

/** Nothing but commits has the log flushed, so that a commit that does not wait for its flush stays unflushed. */
const QUIET = {
  autovacuum: 'off',
  wal_writer_delay: '10s',
  bgwriter_lru_maxpages: '0',
  checkpoint_timeout: '1h',
};

test(
  'case 2: the server is killed with a COMMIT unflushed, and somebody else gets its transaction id: nothing is lost or doubled',
  async () => {
    const server = await startPrimary();
    for (const [name, value] of Object.entries(QUIET))
      await server.query(`alter system set ${name} = '${value}'`);
    await server.query('select pg_reload_conf()');
    const proxy = await startProxy(server.url);
    const sluice = await connect({ dsn: proxy.url, schema: SCHEMA, connectionTimeoutSeconds: 2 });
    onTestFinished(async () => {
      proxy.door = 'open';
      await within(20_000, 'closing', sluice.close()).catch(() => undefined);
      await proxy[Symbol.asyncDispose]();
    });
    await sluice.admin.install();
    await sluice.admin.createQueue('work');
    await doom(server);
    // Its heartbeats would flush the log.
    const producer = await sluice.producer('work', {
      heartbeatIntervalSeconds: 3_600,
      staleAfterSeconds: 36_000,
    });
    const stream = producer.writable({
      batchSize: BATCH_SIZE,
      retries: 1_000,
      retryBaseMs: 10,
      retryMaxMs: 100,
    });
    let given = 0;
    const give = async (batches: number) => {
      await pipeline(Readable.from(numbered(batches * BATCH_SIZE, given)), stream, { end: false });
      given += batches * BATCH_SIZE;
      await eventually('them to be committed', () => stream.stats.committed === given, 30_000);
    };

    const recoveriesMs: number[] = [];
    for (let crash = 1; crash <= CRASHES; crash++) {
      await give(BATCHES);
      // Doorbells would flush the log, too.
      await eventually('quiet', async () => (await active(server)) === 0);
      const ids = watchIds(proxy);
      const killed = killAtCommit(server, proxy);
      await server.query(`update public.doomed set next = true`);
      for (const item of numbered(BATCH_SIZE, given)) stream.write(item);
      await within(20_000, 'the crash', killed);
      proxy.judge = () => 'pass';
      const doomedId = ids.at(-1)!;
      await server.start();

      // Another client gets there first.
      const taken: string[] = [];
      while (BigInt(taken.at(-1) ?? 0) < BigInt(doomedId))
        taken.push((await server.query<{ id: string }>('select pg_current_xact_id()::text as id'))[0]!.id);
      expect(taken, 'the id was not used again: its transaction was flushed after all').toContain(doomedId);
      // The negative control: whoever asked for the transaction's fate would take the batch for committed.
      expect(await server.query(`select pg_xact_status($1::xid8) as status`, [doomedId])).toEqual([
        { status: 'committed' },
      ]);
      const there = await delivered(server);
      expect(there.length).toBe(given);

      proxy.door = 'open';
      const opened = performance.now();
      await within(20_000, 'the retry', once(stream, 'batch'));
      recoveriesMs.push(Math.round(performance.now() - opened));
      given += BATCH_SIZE;
      expect(stream.stats.committed).toBe(given);
    }
    await give(BATCHES);
    await within(20_000, 'the end', new Promise<void>((resolve) => stream.end(resolve)));
    const { committed, retries, resolved } = stream.stats;
    report('case 2', { crashes: CRASHES, rows: committed, retries, resolved, recoveriesMs });
    // The ledger was not deceived: the batches were sent again.
    expect(resolved).toBe(0);
    expect(retries).toBeGreaterThanOrEqual(CRASHES);
    expectFlawless({ attempted: given, acknowledged: committed, delivered: await delivered(server) });
  },
  FULL ? 180_000 : 60_000,
);

/**
 * The next commit of a stream, when it is marked, does not wait for its flush. Its id is told in a warning: a batch's
 * transaction sets client_min_messages, so that a notice would not be sent.
 */
async function doom(server: Node): Promise<void> {
  await server.query('create table public.doomed (next boolean not null)');
  await server.query('insert into public.doomed values (false)');
  await server.query(`
    create function public.mark() returns trigger language plpgsql as $$
    begin
      if (select next from public.doomed) then
        perform set_config('synchronous_commit', 'off', true);
        raise warning 'doomed:%:', pg_current_xact_id();
      end if;
      return null;
    end $$`);
  await server.query(
    `create trigger mark after update on ${SCHEMA}.sluice_streams for each row execute function public.mark()`,
  );
}

/** The ids of doomed transactions, as the warnings tell them. */
function watchIds(proxy: Awaited<ReturnType<typeof startProxy>>): string[] {
  const ids: string[] = [];
  proxy.judge = ({ from, data }) => {
    const [, id] = (from === 'server' && /doomed:(\d+):/.exec(data.toString('latin1'))) || [];
    if (id !== undefined) ids.push(id);
    return 'pass';
  };
  return ids;
}

/** As soon as a doomed transaction says that it has committed, all processes of the server are killed. */
async function killAtCommit(server: Node, proxy: Awaited<ReturnType<typeof startProxy>>): Promise<void> {
  const watching = proxy.judge;
  const [{ pid: walWriter }] = (await server.query<{ pid: number }>(
    `select pid from pg_stat_activity where backend_type = 'walwriter'`,
  )) as [{ pid: number }];
  process.kill(walWriter, 'SIGSTOP');
  onTestFinished(() => void signal(walWriter, 'SIGKILL'));
  const doomed = new Set<Link>();
  await new Promise<void>((resolve) => {
    proxy.judge = (bytes) => {
      const fate = watching(bytes);
      if (bytes.data.includes('doomed:')) doomed.add(bytes.link);
      if (!doomed.has(bytes.link) || !saysCommitted(bytes)) return fate;
      proxy.door = 'shut';
      const killed = server.kill();
      signal(walWriter, 'SIGKILL');
      proxy.cutAll();
      void killed.then(resolve);
      return 'cut';
    };
  });
}

function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch {
    return false; // gone already
  }
}

async function active(server: Node): Promise<number> {
  const rows = await server.query(
    `select from pg_stat_activity
     where state <> 'idle' and backend_type = 'client backend' and pid <> pg_backend_pid()`,
  );
  return rows.length;
}

async function delivered(server: Node): Promise<number[]> {
  const rows = await server.query<{ n: number }>(
    `select (payload->>'n')::int as n from ${SCHEMA}.pgqrs_messages order by vt, id`,
  );
  return rows.map(({ n }) => n);
}
