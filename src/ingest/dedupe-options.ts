import * as check from '../check.js';

const WEEK_SECONDS = 604_800;
const MAX_WINDOW_SECONDS = 315_360_000;
/** PostgreSQL indexes keys, and an index entry holds at most about 2,700 bytes. */
const MAX_KEY_BYTES = 2_000;

export function checkWindow(seconds: unknown = WEEK_SECONDS): number {
  return check.number('dedupeWindowSeconds', seconds, { min: 1, max: MAX_WINDOW_SECONDS });
}

/** @param index place of the item in its source or batch; undefined for a single message */
export function checkKey(key: unknown, index: number | undefined): string | undefined {
  if (key === undefined) return undefined;
  const field = index === undefined ? 'dedupeKey' : `dedupeKey of the item at index ${index}`;
  return check.text(field, key, MAX_KEY_BYTES);
}
