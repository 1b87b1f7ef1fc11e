import type { Db, Queryable } from '../../src/db.js';
import type { Scenario } from './scenario.js';

interface Plan {
  'Node Type': string;
  'Relation Name'?: string;
  'Shared Hit Blocks': number;
  'Shared Read Blocks': number;
  Plans?: Plan[];
}

/** Runs statements, and each of them a second time to see what it reads. Stands for a Db where only queries are made. */
export function explained({ pool, schema }: Pick<Scenario, 'pool' | 'schema'>) {
  const read = { buffers: 0, scanned: [] as string[] };
  const scannedIn = (plan: Plan): string[] => [
    ...(plan['Node Type'] === 'Seq Scan' ? [plan['Relation Name'] ?? ''] : []),
    ...(plan.Plans ?? []).flatMap(scannedIn),
  ];
  const query = async <Row>(text: string, values: readonly unknown[] = []) => {
    const { rows } = await pool.query<{ 'QUERY PLAN': [{ Plan: Plan }] }>(
      `explain (analyze, buffers, format json) ${text}`,
      [...values],
    );
    const [{ Plan: plan }] = rows[0]!['QUERY PLAN'];
    read.buffers += plan['Shared Hit Blocks'] + plan['Shared Read Blocks'];
    read.scanned.push(...scannedIn(plan));
    return (await pool.query(text, [...values])).rows as Row[];
  };
  const on: Queryable = { schema: `"${schema}"`, query };
  return { db: on as unknown as Db, read };
}
