import { PayloadCheck, type PayloadRules } from 'pg-sluice';
import { orders } from '../harness/orders.js';
import { openResults } from '../harness/results.js';
import { interleave, median, medianRatio } from '../harness/rounds.js';
import { printTable } from '../harness/table.js';

const NO_RULES: PayloadRules = {
  maxPayloadBytes: 268_435_455,
  maxStringBytes: undefined,
  maxDepth: 10_000,
  readableByPgqrs: false,
  forbiddenKeys: [],
  requiredKeys: [],
};
const DEFAULT_RULES: PayloadRules = {
  ...NO_RULES,
  maxPayloadBytes: 1_048_576,
  maxDepth: 127,
  readableByPgqrs: true,
  forbiddenKeys: ['__proto__', 'constructor'],
};
/** pgqrs' own defaults. */
const PGQRS_RULES: PayloadRules = { ...DEFAULT_RULES, maxStringBytes: 1_024, maxDepth: 5 };
const ALL_RULES: PayloadRules = { ...PGQRS_RULES, requiredKeys: ['id', 'type'] };

/** Different ones, so that nothing is the same string again; few enough to stay in the cache. */
const ORDERS = 1_000;

/** What does it cost to check a payload, beside making JSON of it, which somebody has to do anyway? */
export async function validation({ rows, rounds }: { rows: number; rounds: number }): Promise<void> {
  const { record } = await openResults('validation');
  const payloads = [...orders(ORDERS)];
  const contenders = [
    { name: 'JSON.stringify', toJson: (payload: object) => JSON.stringify(payload) },
    { name: 'no rules', toJson: checked(NO_RULES) },
    { name: 'default rules', toJson: checked(DEFAULT_RULES) },
    { name: "pgqrs' default rules", toJson: checked(PGQRS_RULES) },
    { name: "pgqrs' rules with required keys", toJson: checked(ALL_RULES) },
  ].map(({ name, toJson }) => ({
    name,
    run: () => Promise.resolve(msFor(rows, payloads, toJson)),
  }));
  const measured = await interleave(rounds, contenders, () => Promise.resolve());

  const bare = measured[0]?.ms ?? [];
  const results = measured.map(({ name, ms }) => {
    const nsPerRow = Math.round((median(ms) / rows) * 1e6);
    return { name, rows, rounds, nsPerRow, ratio: Number(medianRatio(ms, bare).toFixed(2)) };
  });
  for (const result of results) await record(result);
  printTable(
    ['', 'ns a row', 'against JSON.stringify'],
    results.map(({ name, nsPerRow, ratio }) => [name, nsPerRow, ratio]),
  );
}

/** All that `enqueue` does to a payload before it is sent: its length is needed for the statement anyway. */
function checked(rules: PayloadRules): (payload: object) => string {
  const check = new PayloadCheck(rules);
  return (payload) => {
    const json = check.toJson(payload);
    check.checkSize(Buffer.byteLength(json));
    return json;
  };
}

function msFor(rows: number, payloads: readonly object[], toJson: (payload: object) => string): number {
  const started = performance.now();
  let length = 0;
  for (let n = 0; n < rows; n++) length += toJson(payloads[n % payloads.length] as object).length;
  const ms = performance.now() - started;
  // Whoever looks at the result keeps the compiler from leaving the work out.
  if (length === 0) throw new Error('nothing was made into JSON');
  return ms;
}
