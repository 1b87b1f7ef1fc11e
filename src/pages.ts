import * as check from './check.js';
import { InvalidOptionError } from './errors/index.js';
import { shown } from './shown.js';
import type { DuePlace } from './sql/active-messages.js';
import type { Place } from './sql/walk.js';
import type { Id } from './types.js';

/** Longest age that may be asked for: a hundred years. */
export const MAX_SECONDS = 3_153_600_000;

export interface PageOptions {
  /** Longest page, from 1 to 10,000. @default 100 */
  limit?: number | undefined;
  /** That of the page before. @default the first page */
  cursor?: string | undefined;
}

export const PAGE: check.Names<PageOptions> = { limit: true, cursor: true };

export function checkPage({ limit, cursor }: PageOptions): { limit: number; place: Place | null } {
  return { limit: checkLimit(limit), place: placeOf(cursor) };
}

export function checkLimit(limit = 100): number {
  return check.integer('limit', limit, { min: 1, max: 10_000 });
}

/** A cursor that is an id. */
export function checkIdCursor(cursor: unknown): Id | null {
  if (cursor === undefined) return null;
  if (typeof cursor !== 'string' || !/^\d{1,19}$/.test(cursor) || BigInt(cursor) > MAX_ID)
    throw notACursor(cursor);
  return cursor;
}

/** @returns seconds since 1970; null when no time is given */
export function checkTime(field: string, time: unknown): number | null {
  return time === undefined ? null : check.date(field, time).getTime() / 1_000;
}

/** Cuts a list that was asked for one more than wanted. */
export function pageOf<T>(
  rows: readonly { message: T; place: DuePlace }[],
  limit: number,
): { messages: T[]; cursor: string | undefined } {
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  return {
    messages: page.map(({ message }) => message),
    cursor: last && rows.length > limit ? cursorOf(last.place) : undefined,
  };
}

/** The page behind that place. */
export function cursorOf({ at, id }: DuePlace): string {
  return `${at ?? TIMELESS}~${id}`;
}

/** A cursor in the order of delivery. */
export function checkDueCursor(cursor: unknown): DuePlace | null {
  const [, id] = (typeof cursor === 'string' && /^none~(\d{1,19})$/.exec(cursor)) || [];
  return id !== undefined && BigInt(id) <= MAX_ID ? { at: null, id } : placeOf(cursor);
}

/** Stands for the time of what has none. */
const TIMELESS = 'none';
/** Years come with four digits or more. */
const CURSOR =
  /^(-?infinity|\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?[+-]\d\d(?::\d\d){0,2})~(\d{1,19})$/;
const MAX_ID = 9223372036854775807n;

/** What `pageOf` made of a place. Text in the same form that was never one is a place all the same. */
function placeOf(cursor: unknown): Place | null {
  if (cursor === undefined) return null;
  const [, at, id] = (typeof cursor === 'string' && CURSOR.exec(cursor)) || [];
  if (at === undefined || id === undefined || !isTime(at) || BigInt(id) > MAX_ID) throw notACursor(cursor);
  return { at, id };
}

/** As the server writes it: a year after 9999 without the sign and the zeros that Date wants, seconds of an old offset. */
function isTime(at: string): boolean {
  const [year = '', ...rest] = at.split('-');
  const text = [year.length > 4 ? `+${year.padStart(6, '0')}` : year, ...rest].join('-');
  return /infinity$/.test(at) || !Number.isNaN(Date.parse(text.replace(/([+-]\d\d:\d\d):\d\d$/, '$1')));
}

function notACursor(cursor: unknown): InvalidOptionError {
  const got = typeof cursor === 'string' ? shown(cursor) : typeof cursor;
  return new InvalidOptionError('cursor', 'the cursor of an earlier page', got);
}
