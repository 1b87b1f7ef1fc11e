import { appendFile, mkdir, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { cpus, totalmem } from 'node:os';
import { drawLines, type LineChart } from './chart.js';

/** Where a scenario's figures go: `results/local/`, which git does not see. */
export interface Results {
  /** Appends one line to SCENARIO.jsonl. */
  record: (result: Record<string, unknown>) => Promise<void>;
  /** Writes SCENARIO.svg, with the machine and the versions as its caption. */
  draw: (chart: LineChart) => Promise<void>;
}

/** Every line and chart says what it was measured on. */
interface Machine {
  sluice: string;
  node: string;
  /** Left out where no server takes part. */
  postgres?: string;
  cpu: string;
  cores: number;
  memoryGiB: number;
}

const FOLDER = new URL('../results/local/', import.meta.url);

export async function openResults(scenario: string, postgres?: string): Promise<Results> {
  const machine = thisMachine(postgres);
  await mkdir(FOLDER, { recursive: true });
  return {
    record: (result) => {
      const line = JSON.stringify({ scenario, at: new Date().toISOString(), ...result, machine });
      return appendFile(new URL(`${scenario}.jsonl`, FOLDER), `${line}\n`);
    },
    draw: (chart) => writeFile(new URL(`${scenario}.svg`, FOLDER), drawLines(chart, captionOf(machine))),
  };
}

function thisMachine(postgres: string | undefined): Machine {
  const { version } = createRequire(import.meta.url)('pg-sluice/package.json') as { version: string };
  return {
    sluice: version,
    node: process.version,
    ...(postgres !== undefined && { postgres }),
    cpu: cpus()[0]?.model ?? 'unknown CPU',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
  };
}

function captionOf({ sluice, node, postgres, cpu, cores, memoryGiB }: Machine): string {
  const versions = [
    `pg-sluice ${sluice}`,
    `Node ${node.slice(1)}`,
    ...(postgres === undefined ? [] : [`PostgreSQL ${postgres}`]),
  ];
  const today = new Date().toISOString().slice(0, 10);
  return [`${cpu}, ${cores} cores, ${memoryGiB} GiB`, ...versions, today].join(' · ');
}
