import type { Queryable, Session } from '../db.js';

/**
 * One SQL statement, written for the quoted schema name that is spliced in; everything else is a parameter.
 * The text is built once per schema and carries the statement's name, so that the server's views show it.
 */
export function statement(name: string, build: (schema: string) => string): (schema: string) => string {
  const texts = new Map<string, string>();
  return (schema) => {
    let text = texts.get(schema);
    if (text === undefined) {
      text = `/* sluice:${name} */ ${build(schema).trim()}`;
      texts.set(schema, text);
    }
    return text;
  };
}

/** SQLSTATEs that our own functions raise; class SL is nobody else's. */
export const RAISED = {
  queueGone: 'SLQ01',
  workerGone: 'SLW01',
  streamMoved: 'SLS01',
  rowsMissing: 'SLR01',
} as const;

/** Runs a statement that comes often: prepared where the connection allows it. */
export function prepared<Row>(
  on: Queryable | Session,
  text: string,
  values: readonly unknown[],
): Promise<Row[]> {
  return 'prepared' in on ? on.prepared<Row>(text, values) : on.query<Row>(text, values);
}
