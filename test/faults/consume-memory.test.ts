import { expect, test } from 'vitest';
import { startChildWith } from '../support/child-process.js';
import { scenario } from '../support/scenario.js';
import { report } from '../support/total-queue.js';

const MIB = 1_024 * 1_024;
const MESSAGES = 150;
const HEAP_MIB = 96;

test.each(['run', 'messages'])(
  '%s of messages that are large, though small on the disk of the server, fits into a small heap',
  async (way) => {
    const s = await scenario();
    await s.pool.query(
      `insert into ${s.schema}.pgqrs_messages (queue_id, payload, vt)
       select $1, jsonb_build_object('n', n, 'text', repeat('some text ', 99000)), now() from generate_series(1, $2) n`,
      [s.queue.id, MESSAGES],
    );
    const { rows } = await s.pool.query<{ stored: number; sent: number }>(
      `select max(pg_column_size(payload)) as stored, max(octet_length(payload::text)) as sent
       from ${s.schema}.pgqrs_messages`,
    );
    expect(rows[0]!.stored).toBeLessThan(20_000);
    expect(rows[0]!.sent).toBeGreaterThan(990_000);
    const child = startChildWith(
      [`--max-old-space-size=${HEAP_MIB}`],
      'child-large.ts',
      ...[s.url, s.schema, way, String(MESSAGES)],
    );
    const said = (await child.next(60_000)) as { baselineBytes: number; peakBytes: number; handled: number };
    const mib = (bytes: number) => Math.round(bytes / MIB);
    report('large messages', { way, baseline: mib(said.baselineBytes), peak: mib(said.peakBytes) });
    expect(said.handled).toBe(MESSAGES);
    expect(said.peakBytes).toBeLessThan(said.baselineBytes + HEAP_MIB * MIB);
  },
  90_000,
);
