/** Seconds since 1970 as a float8, exact to the microsecond: no DateStyle, TimeZone or type parser can garble them. */
export const seconds = (column: string) => `date_part('epoch', ${column})`;

/** What `seconds` brought as a Date: to the millisecond, cut like every other Date from the driver. */
export function date(epochSeconds: number): Date {
  return new Date(Math.floor(Math.round(epochSeconds * 1e6) / 1e3));
}
