import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, test } from 'vitest';
import { behindProxy, type BehindProxy, expectNothingLeft, ledger, numbers } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { asksToCommit, type Bytes, type Link, saysCommitted, sendsRows } from '../support/proxy.js';
import { numbered } from '../support/scenario.js';

const QUICK = {
  batchSize: 100,
  retryBaseMs: 1,
  retryMaxMs: 20,
  batchTimeoutMs: 400,
  method: 'copy',
} as const;

/** Lets the nth of the moments that match go silent. */
function silenceAt({ proxy }: BehindProxy, matches: (bytes: Bytes) => boolean, nth: number): void {
  let seen = 0;
  proxy.judge = (bytes) => (matches(bytes) && ++seen === nth ? 'hole' : 'pass');
}

test.each([
  ['while rows are sent', sendsRows],
  ['when the COMMIT is sent', asksToCommit],
  ['when its answer comes, so that only the ledger knows', saysCommitted],
])(
  'a connection that goes silent %s is cut at the deadline, and nothing is lost or doubled',
  async (_when, moment) => {
    const behind = await behindProxy();
    silenceAt(behind, moment, 4);
    const stream = behind.through.writable(QUICK);
    const reasons: string[] = [];
    stream.on('retry', ({ error }) => reasons.push((error as { code?: string }).code ?? error.message));
    await within(15_000, 'the load', pipeline(Readable.from(numbered(1_000)), stream));
    expect(reasons).toEqual(['TIMEOUT']);
    expect(await behind.delivered()).toEqual(numbers(1_000));
    await expectNothingLeft(behind, behind.sluiceThrough);
  },
);

test('a backend that is left behind with the lock on the ledger is ended, not waited for', async () => {
  const behind = await behindProxy();
  const { pool, schema, through } = behind;
  // The first batch to get there stays in its UPDATE for ever: whoever comes next does not (nextval is not rolled back).
  await pool.query(`
    create sequence ${schema}.visits;
    create function ${schema}.stay() returns trigger language plpgsql as $$
    begin
      if nextval('${schema}.visits') = 3 then perform pg_sleep(3600); end if;
      return null;
    end $$;
    create trigger stay after update on ${schema}.sluice_streams for each row execute function ${schema}.stay()`);
  const stream = through.writable(QUICK);
  // Shorter than the lock_timeout of the retry, which would not help anyway.
  await within(4_000, 'the load', pipeline(Readable.from(numbered(1_000)), stream));
  expect(stream.stats.retries).toBe(1);
  expect(await behind.delivered()).toEqual(numbers(1_000));
  const { rows } = await pool.query(
    `select from pg_stat_activity where wait_event = 'PgSleep' and query like '%${schema}%' and pid <> pg_backend_pid()`,
  );
  expect(rows).toEqual([]);
});

test('a batch cannot commit twice, even when a backend that nobody can end wakes up after its retry', async () => {
  const behind = await behindProxy();
  const { proxy, through, delivered } = behind;
  let zombie: { link: Link; commit: Buffer } | undefined;
  proxy.judge = (bytes) => {
    const { link, data } = bytes;
    if (data.includes('sluice:end_transaction')) return 'cut';
    if (zombie || !asksToCommit(bytes) || !data.includes(", 3, '300', ")) return 'pass';
    zombie = { link, commit: data };
    return 'hole';
  };
  const stream = through.writable(QUICK);
  stream.once('retry', ({ seq }) => expect(seq).toBe(3));
  for (const item of numbered(500)) stream.write(item);
  await eventually(
    'the retry of batch 3 and the rest to commit',
    () => stream.stats.committed === 500,
    15_000,
  );

  const { link, commit } = zombie!;
  const answer = (await link.ask(commit)).toString();
  expect(answer).toContain('SLS01');
  expect(answer).not.toContain('COMMIT\0');
  expect(await ledger(behind)).toMatchObject([{ seq: 5, position: '500' }]);
  await within(5_000, 'the end', new Promise<void>((resolve) => stream.end(resolve)));
  expect(await delivered()).toEqual(numbers(500));
});

test('a stream that must end while its last COMMIT is unanswered says exactly what is in', async () => {
  for (const moment of [asksToCommit, saysCommitted]) {
    const behind = await behindProxy();
    silenceAt(behind, moment, 3);
    const stream = behind.through.writable({ ...QUICK, retries: 0 });
    const failure = await within(
      20_000,
      'the failure',
      pipeline(Readable.from(numbered(1_000)), stream).catch((error: unknown) => error),
    );
    const committed = await behind.count();
    expect(committed).toBe(moment === saysCommitted ? 300 : 200);
    expect(failure).toMatchObject({ code: 'TIMEOUT', progress: { committed, position: String(committed) } });
    expect(stream.stats.committed).toBe(committed);
    await expectNothingLeft(behind, behind.sluiceThrough);
  }
});
