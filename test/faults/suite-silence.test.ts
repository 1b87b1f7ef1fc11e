import { once } from 'node:events';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { expect, onTestFinished, test } from 'vitest';
import { connect } from '../../src/index.js';
import { expectNothingLeft } from '../ingest/support.js';
import { eventually, within } from '../support/eventually.js';
import { asksToCommit, type Bytes, saysCommitted, sendsRows, startProxy } from '../support/proxy.js';
import { numbered, scenario } from '../support/scenario.js';
import { deliveredOf, expectFlawless, FULL, report } from '../support/total-queue.js';

const BATCH_TIMEOUT_MS = FULL ? 5_000 : 1_000;
const ROWS = FULL ? 100_000 : 5_000;
const BATCH_SIZE = ROWS / 50;

test.each([
  { when: 'during COPY', moment: sendsRows, holdsLedger: false },
  {
    when: 'during COMMIT, the backend holding the row of the ledger',
    moment: asksToCommit,
    holdsLedger: true,
  },
  { when: 'before the answer to COMMIT', moment: saysCommitted, holdsLedger: false },
])(
  'case 6: a black hole $when is over at the deadline, and leaves neither a client nor a backend behind',
  async ({ when, moment, holdsLedger }) => {
    const s = await scenario();
    const proxy = await startProxy(s.url);
    const url = new URL(proxy.url);
    const name = `silent-${s.schema}`;
    url.searchParams.set('application_name', name);
    const sluice = await connect({ dsn: url.href, schema: s.schema });
    onTestFinished(async () => {
      proxy.judge = () => 'pass';
      await within(20_000, 'closing', sluice.close()).catch(() => undefined);
      await proxy[Symbol.asyncDispose]();
    });
    const producer = await sluice.producer('work');
    if (holdsLedger)
      // The tenth update of the ledger never ends. (nextval is not rolled back.)
      await s.pool.query(`
        create sequence ${s.schema}.visits;
        create function ${s.schema}.stay() returns trigger language plpgsql as $$
        begin
          if nextval('${s.schema}.visits') = 10 then perform pg_sleep(3600); end if;
          return null;
        end $$;
        create trigger stay after update on ${s.schema}.sluice_streams
          for each row execute function ${s.schema}.stay()`);

    let seen = 0;
    let silentAt = 0;
    proxy.judge = (bytes: Bytes) => {
      if (!moment(bytes) || ++seen !== 10) return 'pass';
      silentAt = performance.now();
      if (!holdsLedger) return 'hole';
      queueMicrotask(() => bytes.link.hole());
      return 'pass';
    };
    const stream = producer.writable({
      batchSize: BATCH_SIZE,
      method: 'copy',
      batchTimeoutMs: BATCH_TIMEOUT_MS,
    });
    const loaded = pipeline(Readable.from(numbered(ROWS)), stream);
    loaded.catch(() => undefined);
    await eventually('the black hole', () => silentAt > 0);
    if (holdsLedger) await eventually('a backend with the row', async () => (await asleep()) === 1);
    await within(BATCH_TIMEOUT_MS + 5_000, 'the retry', once(stream, 'retry'));
    await within(5_000, 'the next batch', once(stream, 'batch'));
    const settledMs = Math.round(performance.now() - silentAt);
    await within(30_000, 'the load', loaded);
    report('case 6', { when, rows: ROWS, batchTimeoutMs: BATCH_TIMEOUT_MS, settledMs });
    expect(settledMs).toBeLessThan(BATCH_TIMEOUT_MS + 1_000);
    expect(stream.stats.retries).toBe(1);
    expectFlawless({
      attempted: ROWS,
      acknowledged: stream.stats.committed,
      delivered: await deliveredOf(s),
    });

    await expectNothingLeft(s, sluice);
    await eventually(
      'no backend in a transaction',
      async () => (await backends(`xact_start is not null`)) === 0,
    );
    await sluice.close();
    // After its last answer a backend is idle; that its client is gone nobody can tell it through a black hole.
    const left = moment === saysCommitted ? 1 : 0;
    await eventually('no backend', async () => (await backends('true')) === left);

    async function backends(which: string): Promise<number> {
      const { rows } = await s.pool.query(
        `select from pg_stat_activity where application_name = $1 and ${which}`,
        [name],
      );
      return rows.length;
    }
    function asleep(): Promise<number> {
      return backends(`wait_event = 'PgSleep'`);
    }
  },
);
