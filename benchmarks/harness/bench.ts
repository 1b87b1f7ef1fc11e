import pg from 'pg';
import { connect, type Sluice } from 'pg-sluice';
import { startEmbedded } from 'pg-sluice/embedded';
import { openResults, type Results } from './results.js';

export interface Bench extends Results {
  url: string;
  schema: string;
  sluice: Sluice;
  /** For SQL beside the library. */
  client: pg.Client;
}

const SCHEMA = 'sluice_bench';

/** A server (BENCH_DATABASE_URL, or an embedded one), an installed schema, and a place for results. */
export async function withBench(scenario: string, run: (bench: Bench) => Promise<void>): Promise<void> {
  const given = process.env.BENCH_DATABASE_URL;
  const server = given ? undefined : await startEmbedded();
  try {
    const url = server?.url ?? given ?? '';
    await using sluice = await connect({ dsn: url, schema: SCHEMA });
    await sluice.admin.uninstall();
    await sluice.admin.install();
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      const { rows } = await client.query<{ server: string }>(
        `select current_setting('server_version') as server`,
      );
      const results = await openResults(scenario, rows[0]?.server);
      await run({ ...results, url, schema: SCHEMA, sluice, client });
    } finally {
      await client.end();
    }
  } finally {
    await server?.stop();
  }
}
