import { expect, test } from 'vitest';
import { startChild } from '../support/child-process.js';
import { eventually, within } from '../support/eventually.js';
import { scenario, type Scenario } from '../support/scenario.js';

const STALE_SECONDS = 0.6;

/** Messages by who wrote them and how. */
async function written({ pool, schema }: Scenario): Promise<Record<string, number>> {
  const { rows } = await pool.query<{ key: string; count: number }>(
    `select concat_ws(' ', payload->>'mark', payload->>'by') as key, count(*)::int as count
     from ${schema}.pgqrs_messages where payload ? 'mark' group by 1 order by 1`,
  );
  return Object.fromEntries(rows.map(({ key, count }) => [key, count]));
}

const of = (counts: Record<string, number>, mark: string) =>
  Object.fromEntries(Object.entries(counts).filter(([key]) => key.startsWith(`${mark} `)));

function child(s: Scenario, port: number, mark: string) {
  return startChild(
    'child-producer.ts',
    'be that worker',
    s.url,
    s.schema,
    String(port),
    String(STALE_SECONDS),
    mark,
  );
}

test('a name belongs to one live process; one that stood still loses it, writes nothing more, and ends by itself', async () => {
  const s = await scenario();
  const first = child(s, 4_000, 'first');
  const { workerId } = (await first.next()) as { workerId: string };
  await eventually(
    'all ways of the first',
    async () => Object.keys(of(await written(s), 'first')).length === 3,
  );

  // It lives, so nobody else may.
  const refused = child(s, 4_000, 'refused');
  expect(await refused.next()).toEqual({ refused: 'WORKER_ALREADY_ACTIVE' });
  expect(of(await written(s), 'refused')).toEqual({});

  first.process.kill('SIGSTOP');
  const second = await eventually('the take-over', async () =>
    s.sluice
      .producer('work', {
        hostname: 'host',
        port: 4_000,
        heartbeatIntervalSeconds: STALE_SECONDS / 3,
        staleAfterSeconds: STALE_SECONDS,
      })
      .catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'WORKER_ALREADY_ACTIVE' });
        return undefined;
      }),
  );
  expect(second.workerId).toBe(workerId);
  await second.enqueue({ n: 0, mark: 'second', by: 'enqueue' });
  const atTakeOver = await written(s);
  first.process.kill('SIGCONT');
  expect(await first.next()).toEqual({
    enqueue: 'WORKER_FENCED',
    stream: 'WORKER_FENCED',
    later: 'WORKER_FENCED',
    fenced: 1,
    unhandled: 0,
  });
  expect(await first.exit()).toBe(0);
  expect(of(await written(s), 'first')).toEqual(of(atTakeOver, 'first'));

  // The second lives on.
  await second.enqueue({ n: 1, mark: 'second', by: 'enqueue' });
  expect(await second.status()).toBe('ready');
  expect(of(await written(s), 'second')).toEqual({ 'second enqueue': 2 });
  await within(5_000, 'closing', second.close());
});

test('wherever it stood still, in the middle of a batch too, nothing of it comes after the take-over', async () => {
  const s = await scenario();
  for (let round = 0; round < 6; round++) {
    const mark = `round${round}`;
    const first = child(s, 4_100 + round, mark);
    const { workerId } = (await first.next()) as { workerId: string };
    await eventually('its first messages', async () => Object.keys(of(await written(s), mark)).length === 3);
    first.process.kill('SIGSTOP');
    const taken = await eventually('the take-over', async () => {
      // As the take-over does, sooner than the name is stale: the same statement's effect.
      const { rowCount } = await s.pool.query(
        `update ${s.schema}.pgqrs_workers set started_at = now(), heartbeat_at = now() where id = $1`,
        [workerId],
      );
      return rowCount === 1;
    });
    expect(taken).toBe(true);
    // What it had sent before it stood still may still be under way in the server.
    await eventually('the server to be done with it', async () => {
      const { rowCount } = await s.pool.query(
        `select from pg_stat_activity where state = 'active' and pid <> pg_backend_pid()
           and query like '%' || $1 || '%' and wait_event is distinct from 'ClientRead'`,
        [s.schema],
      );
      return rowCount === 0;
    });
    const before = of(await written(s), mark);
    first.process.kill('SIGCONT');
    const end = await first.next();
    expect({ round, end }).toMatchObject({ end: { stream: 'WORKER_FENCED', unhandled: 0, fenced: 1 } });
    expect(await first.exit()).toBe(0);
    expect({ round, ...of(await written(s), mark) }).toEqual({ round, ...before });
  }
});
