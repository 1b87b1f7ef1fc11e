import { appendFile, mkdir } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import pg from 'pg';
import { connect, type Sluice } from 'pg-sluice';
import { startEmbedded } from 'pg-sluice/embedded';

export interface Bench {
  url: string;
  schema: string;
  sluice: Sluice;
  /** For SQL beside the library. */
  client: pg.Client;
  /** Writes one result line and shows it. */
  record: (result: Record<string, unknown>) => Promise<void>;
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
    const { rows } = await client.query<{ server: string }>(
      `select current_setting('server_version') as server`,
    );
    const machine = {
      node: process.version,
      postgres: rows[0]?.server,
      cpu: cpus()[0]?.model,
      cores: cpus().length,
      memoryGiB: Math.round(totalmem() / 2 ** 30),
    };
    const folder = new URL('../results/local/', import.meta.url);
    await mkdir(folder, { recursive: true });
    try {
      await run({
        url,
        schema: SCHEMA,
        sluice,
        client,
        record: async (result) => {
          const line = JSON.stringify({ scenario, at: new Date().toISOString(), ...result, machine });
          await appendFile(new URL(`${scenario}.jsonl`, folder), `${line}\n`);
        },
      });
    } finally {
      await client.end();
    }
  } finally {
    await server?.stop();
  }
}
