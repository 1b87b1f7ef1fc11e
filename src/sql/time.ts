/** Seconds since 1970 as a float8, exact to the microsecond: no DateStyle, TimeZone or type parser can garble them. */
export const seconds = (column: string) => `date_part('epoch', ${column})`;

/** Microseconds since 1970 as an int8. */
export const micros = (column: string) => `round(${seconds(column)} * 1000000::float8)::int8`;

/** What `seconds` brought as a Date: to the millisecond, cut like every other Date from the driver. */
export function date(epochSeconds: number): Date {
  return new Date(Math.floor(Math.round(epochSeconds * 1e6) / 1e3));
}
