// Adds up the test runners' reports and ends as they did: counts.js FAILED REPORT...
import { readFileSync } from 'node:fs';
import process from 'node:process';

const [failedStep, ...reports] = process.argv.slice(2);
const sum = { passed: 0, failed: failedStep === '0' ? 0 : 1, skipped: 0 };
for (const report of reports) {
  const { numPassedTests, numFailedTests, numPendingTests, numTodoTests } = read(report);
  sum.passed += numPassedTests;
  sum.failed += numFailedTests;
  sum.skipped += numPendingTests + numTodoTests;
}
if (sum.passed === 0) sum.failed += 1;
process.stdout.write(`\n${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped\n`);
process.exitCode = sum.failed === 0 ? 0 : 1;

/** @param {string} file */
function read(file) {
  return /** @type {Record<'numPassedTests' | 'numFailedTests' | 'numPendingTests' | 'numTodoTests', number>} */ (
    JSON.parse(readFileSync(file, 'utf8'))
  );
}
