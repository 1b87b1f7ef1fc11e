// npm run bench -- SCENARIO [--rows N] [--rounds N]; without a scenario all of them run.
import { parseArgs } from 'node:util';
import { batchSize } from './scenarios/batch-size.js';
import { burst } from './scenarios/burst.js';
import { consumePeers } from './scenarios/consume-peers.js';
import { dedupe } from './scenarios/dedupe.js';
import { delayed } from './scenarios/delayed.js';
import { enqueueConcurrent } from './scenarios/enqueue-concurrent.js';
import { enqueueLatency } from './scenarios/enqueue-latency.js';
import { ingest } from './scenarios/ingest.js';
import { latency } from './scenarios/latency.js';
import { ledger } from './scenarios/ledger.js';
import { validation } from './scenarios/validation.js';

const scenarios = {
  ingest: { run: ingest, rows: 300_000, rounds: 5 },
  ledger: { run: ledger, rows: 300_000, rounds: 5 },
  'batch-size': { run: batchSize, rows: 200_000, rounds: 5 },
  'enqueue-latency': { run: enqueueLatency, rows: 0, rounds: 100 },
  'enqueue-concurrent': { run: enqueueConcurrent, rows: 20_000, rounds: 5 },
  validation: { run: validation, rows: 20_000, rounds: 50 },
  dedupe: { run: dedupe, rows: 200_000, rounds: 5 },
  latency: { run: latency, rows: 0, rounds: 200 },
  delayed: { run: delayed, rows: 0, rounds: 10 },
  burst: { run: burst, rows: 300_000, rounds: 1 },
  'consume-peers': { run: consumePeers, rows: 100_000, rounds: 5 },
};
type Name = keyof typeof scenarios;

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { rows: { type: 'string' }, rounds: { type: 'string' } },
});
const names = positionals.length > 0 ? positionals : Object.keys(scenarios);
for (const name of names) {
  if (!(name in scenarios)) {
    console.error(`unknown scenario "${name}"; there are: ${Object.keys(scenarios).join(', ')}`);
    process.exit(2);
  }
  const { run, rows, rounds } = scenarios[name as Name];
  console.log(`\n# ${name}`);
  await run({ rows: Number(values.rows ?? rows), rounds: Number(values.rounds ?? rounds) });
}
