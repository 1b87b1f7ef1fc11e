import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { inject } from 'vitest';

/** URL of the shared server. */
export function databaseUrl(): string {
  return inject('databaseUrl');
}

export interface FreshSchema {
  /** A name that no other test uses; the schema itself does not exist yet. */
  schema: string;
  url: string;
  /** For the test's own SQL. */
  pool: pg.Pool;
  drop(): Promise<void>;
}

export function freshSchema(): FreshSchema {
  const schema = `test_${randomBytes(6).toString('hex')}`;
  const url = databaseUrl();
  const pool = new pg.Pool({ connectionString: url, max: 5 });
  pool.on('error', () => undefined);
  return {
    schema,
    url,
    pool,
    drop: async () => {
      await pool.query(`drop schema if exists ${schema} cascade`);
      await pool.end();
    },
  };
}
