import * as check from '../check.js';
import { InvalidOptionError } from '../errors/index.js';

export interface ResumeOptions<T> {
  /**
   * Name of the stream, in the ledger and so for all processes: whoever starts it again goes on where it ended, and
   * fences who ran it before. Any text up to 255 bytes that does not begin with `anonymous-`.
   */
  name: string;
  /**
   * Where the source is when it has given this item: what a source needs to go on behind it, such as a byte offset, a
   * line, a key; no two items have the same. It is asked once for every item, in order.
   * @param index counted from where this run begins; in `ingest()` of anything but a function from the beginning
   * @default how many items the source has given
   */
  position?: (item: T, index: number) => string | number;
}

const RESUME: check.Names<ResumeOptions<never>> = { name: true, position: true };

/** As a name alone, or with what else there is. */
export type Resume<T> = string | ResumeOptions<T>;

export function checkResume<T>(resume: Resume<T> | undefined): ResumeOptions<T> | undefined {
  if (resume === undefined) return undefined;
  const given = typeof resume === 'string' ? { name: resume } : resume;
  check.kind('resume', given, 'a name, or an object with one', check.isObject);
  const { name, position } = check.options<ResumeOptions<T>>('resume', given, RESUME);
  check.text('resume.name', name, 255);
  if (name.startsWith(ANONYMOUS))
    throw new InvalidOptionError('resume.name', `a name that does not begin with ${ANONYMOUS}`, `"${name}"`);
  if (position === undefined) return { name };
  return { name, position: check.callback('resume.position', position) };
}

/** How names of streams begin that end with their process. */
export const ANONYMOUS = 'anonymous-';

/** The item's position as the ledger keeps it. */
export function checkPosition(position: unknown, index: number): string {
  const field = `position of the item at index ${index}`;
  if (typeof position === 'number') return String(check.number(field, position));
  return check.text(field, position, 10_000);
}

/** A position that is how many items the source has given, as a number. */
export function countOf(position: string): number {
  if (/^\d*$/.test(position)) return Number(position);
  const rule = 'a function, as in earlier runs: the ledger has a position that is no count of items';
  throw new InvalidOptionError('resume.position', rule, 'undefined');
}
