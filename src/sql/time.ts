/** Seconds since 1970 as a float8, exact to the microsecond: no DateStyle, TimeZone or type parser can garble them. */
export const seconds = (column: string) => `date_part('epoch', ${column})`;

/** Microseconds since 1970 as an int8. */
export const micros = (column: string) => `round(${seconds(column)} * 1000000::float8)::int8`;

/**
 * A Date as a parameter of timestamptz: exact, whatever DateStyle and TimeZone are. What is before 1970 has passed, and
 * needs no form that PostgreSQL would not read; nor does it read a sign before the year.
 */
export function timestamp(time: Date): string {
  return new Date(Math.max(0, time.getTime())).toISOString().replace('+', '');
}

/** From 2242 on a float8 of seconds is too coarse for microseconds, but not for milliseconds. */
const COARSE = 2 ** 33;

/** What `seconds` brought as a Date: to the millisecond, cut like every other Date from the driver. */
export function date(epochSeconds: number): Date {
  if (Math.abs(epochSeconds) >= COARSE) return new Date(Math.round(epochSeconds * 1e3));
  return new Date(Math.floor(Math.round(epochSeconds * 1e6) / 1e3));
}
