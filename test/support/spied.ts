import pg from 'pg';
import { onTestFinished } from 'vitest';
import { connect } from '../../src/index.js';
import type { Scenario } from './scenario.js';

/** A Sluice over a pool that keeps the names of our statements, and can hold back an answer. */
export async function spied(s: Scenario, settings: { pollIntervalMs?: number } = {}) {
  const pool = new pg.Pool({ connectionString: s.url, max: 4 });
  const statements: string[] = [];
  const hooks = new Map<string, () => Promise<void>>();
  pool.on('connect', (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    client.query = ((...args: unknown[]) => {
      const text = typeof args[0] === 'string' ? args[0] : (args[0] as { text?: string }).text;
      const name = /sluice:(\w+)/.exec(text ?? '')?.[1];
      if (name) statements.push(name);
      const hook = name === undefined ? undefined : hooks.get(name);
      if (!name || !hook) return query(...args);
      hooks.delete(name);
      return (query(...args) as Promise<unknown>).then(async (answer) => {
        await hook();
        return answer;
      });
    }) as typeof client.query;
  });
  const sluice = await connect({ pool, schema: s.schema, ...settings });
  onTestFinished(async () => {
    await sluice.close();
    await pool.end();
  });
  const count = (name: string) => statements.filter((found) => found === name).length;
  /** Does `work` once, when the server has answered that statement and before the answer is seen. */
  const answered = (name: string, work: () => Promise<void>) => void hooks.set(name, work);
  return { sluice, count, answered };
}
