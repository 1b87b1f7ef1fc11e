import { expect, test } from 'vitest';
import { startChild } from '../support/child-process.js';
import { scenario } from '../support/scenario.js';
import { deliveredOf, expectFlawless, FULL, report } from '../support/total-queue.js';

const MIB = 1_024 * 1_024;

test.each([
  {
    what: 'small rows',
    rows: FULL ? 1_000_000 : 50_000,
    textBytes: 400,
    batchBytes: FULL ? 8 * MIB : 4 * MIB,
  },
  { what: 'rows of 1 MB', rows: FULL ? 1_000 : 80, textBytes: 1_000_000, batchBytes: 8 * MIB },
])(
  'case 9: $what into a slow database take no more memory than three times what is in flight',
  async ({ what, rows, textBytes, batchBytes }) => {
    const s = await scenario();
    await s.pool.query(`
      create function ${s.schema}.slow() returns trigger language plpgsql as $$
      begin
        perform pg_sleep(0.2);
        return null;
      end $$;
      create trigger slow before insert on ${s.schema}.pgqrs_messages
        for each statement execute function ${s.schema}.slow()`);
    const warmUpRows = Math.ceil((2 * batchBytes) / textBytes);
    const child = startChild(
      'child-load.ts',
      s.url,
      s.schema,
      ...[rows, textBytes, batchBytes, warmUpRows].map(String),
    );
    const said = (await child.next(240_000)) as {
      baselineBytes: number;
      peakBytes: number;
      committed: number;
    };
    // Two batches are on their way and one is being filled.
    const inFlight = 3 * batchBytes;
    const mib = (bytes: number) => Math.round(bytes / MIB);
    report('case 9', {
      ...{ what, rows, rowBytes: textBytes },
      mib: { baseline: mib(said.baselineBytes), peak: mib(said.peakBytes), inFlight: mib(inFlight) },
      times: Number(((said.peakBytes - said.baselineBytes) / inFlight).toFixed(2)),
    });
    expect(said.peakBytes).toBeLessThan(said.baselineBytes + 3 * inFlight);
    expect(said.committed).toBe(rows);
    expectFlawless({ attempted: rows, acknowledged: said.committed, delivered: await deliveredOf(s) });
  },
  300_000,
);
