/**
 * Prints rows under their heads: as Markdown, so that README.md takes it as it is. Columns of numbers are aligned to the
 * right, and have two decimals where one of them is no whole number.
 */
export function printTable(head: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
  const columns = head.map((name, n) =>
    columnOf(
      name,
      rows.map((row) => row[n] ?? ''),
    ),
  );
  for (let line = 0; line < rows.length + 2; line++) {
    console.log(`| ${columns.map((column) => column[line]).join(' | ')} |`);
  }
}

/** The head, the rule below it, and the cells: all of one width. */
function columnOf(head: string, values: readonly (string | number)[]): string[] {
  const numeric = values.every((value) => typeof value === 'number');
  const digits = values.every((value) => typeof value === 'string' || Number.isInteger(value)) ? 0 : 2;
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  const cells = values.map((value) =>
    typeof value === 'string' ? value : value.toLocaleString('en', options),
  );
  const width = Math.max(3, ...[head, ...cells].map((cell) => cell.length));
  const rule = numeric ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width);
  return [head, rule, ...cells].map((cell) => (numeric ? cell.padStart(width) : cell.padEnd(width)));
}
