import { describe, expect, test } from 'vitest';
import { Db } from '../../src/db.js';
import { onClient } from '../../src/on-client.js';
import { eventually } from '../support/eventually.js';
import { missing } from './pgbouncer.js';
import { pooled } from './pooled.js';

describe.skipIf(missing !== undefined)('through PgBouncer', () => {
  test('a statement that is given up is cancelled on the server behind it', async () => {
    const s = await pooled();
    const settings = { schema: s.schema, maxConnections: 4, connectTimeoutMs: 5_000 };
    const db = Db.open(s.pooler.url, settings);
    const asleep = `select from pg_stat_activity where query = 'select pg_sleep(62)' and state = 'active'`;
    const given = Array.from({ length: 4 }, () =>
      onClient(db, { what: 'sleeping', ms: 300 }, (session) => session.query('select pg_sleep(62)')),
    );
    for (const result of await Promise.allSettled(given))
      expect(result).toMatchObject({ reason: { code: 'TIMEOUT' } });
    await eventually('their end', async () => (await s.pool.query(asleep)).rowCount === 0, 5_000);
    await db.close();
  });
});
