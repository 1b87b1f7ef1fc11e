import { InvalidOptionError } from './errors/index.js';
import { shown } from './shown.js';

export interface Range {
  min?: number;
  /** Like `min`, but not itself in the range. */
  above?: number;
  max?: number;
}

/** Refuses what is not a whole number within the range. */
export function integer(field: string, value: unknown, range: Range = {}): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || outside(value, range)) {
    throw new InvalidOptionError(field, `a whole number${between(range)}`, display(value));
  }
  return value;
}

/** Refuses what is not a finite number within the range. */
export function number(field: string, value: unknown, range: Range = {}): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || outside(value, range)) {
    throw new InvalidOptionError(field, `a number${between(range)}`, display(value));
  }
  return value;
}

/** Refuses what is not a wait in seconds; the maximum is that of pgqrs' delays, unsigned 32-bit seconds. */
export function seconds(field: string, value: unknown): number {
  return number(field, value, { min: 0, max: 4_294_967_295 });
}

/** Refuses what is not the length of a lease in seconds: up to 30 days. */
export function leaseSeconds(field: string, value: unknown): number {
  return number(field, value, { min: 0, max: 2_592_000 });
}

/** Refuses what is not a non-empty string of at most `maxBytes` bytes without NUL, which PostgreSQL cannot store. */
export function text(field: string, value: unknown, maxBytes = Infinity): string {
  if (
    typeof value !== 'string' ||
    value === '' ||
    value.includes('\0') ||
    Buffer.byteLength(value) > maxBytes
  ) {
    const limit = maxBytes === Infinity ? '' : ` of at most ${maxBytes} bytes`;
    throw new InvalidOptionError(field, `a non-empty string${limit} without NUL characters`, display(value));
  }
  return value;
}

/** Refuses what is not a list of strings. Returns a frozen copy: the caller may go on to change the original. */
export function strings(field: string, value: unknown): readonly string[] {
  const rule = 'a list of strings';
  if (!Array.isArray(value)) throw new InvalidOptionError(field, rule, display(value));
  const copy = Array.from(value, (item: unknown, index) => {
    if (typeof item === 'string') return item;
    throw new InvalidOptionError(field, rule, `${display(item)} at index ${index}`);
  });
  return Object.freeze(copy);
}

export function boolean(field: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw new InvalidOptionError(field, 'true or false', display(value));
  return value;
}

export function signal(field: string, value: unknown): AbortSignal {
  return kind(field, value, 'an AbortSignal', (it): it is AbortSignal => it instanceof AbortSignal);
}

/** Refuses what is not of the kind that `rule` names. */
export function kind<T>(field: string, value: unknown, rule: string, is: (value: unknown) => value is T): T {
  if (!is(value)) throw new InvalidOptionError(field, rule, display(value));
  return value;
}

/** Refuses what is not one of the choices. */
export function oneOf<T extends string>(field: string, value: unknown, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === value);
  if (found === undefined)
    throw new InvalidOptionError(field, `one of ${choices.join(', ')}`, display(value));
  return found;
}

/** A decimal string that fits int8: how ids travel in JavaScript. */
export function id(field: string, value: unknown): string {
  if (typeof value !== 'string' || !/^[1-9]\d{0,18}$/.test(value) || BigInt(value) > 9223372036854775807n) {
    throw new InvalidOptionError(field, 'an id: a positive decimal string', display(value));
  }
  return value;
}

/**
 * A schema name as pgqrs accepts it: a letter or underscore first, then letters, digits, underscore or $,
 * at most 63 bytes (longer names would be cut silently by PostgreSQL).
 */
export function schemaName(field: string, value: unknown): string {
  if (
    typeof value !== 'string' ||
    !/^[\p{L}_][\p{L}\p{N}_$]*$/u.test(value) ||
    Buffer.byteLength(value) > 63
  ) {
    throw new InvalidOptionError(
      field,
      'a schema name: a letter or underscore, then letters, digits, _ or $, at most 63 bytes',
      display(value),
    );
  }
  return value;
}

function outside(value: number, { min = -Infinity, above = -Infinity, max = Infinity }: Range): boolean {
  return value < min || value <= above || value > max;
}

function between({ min, above, max }: Range): string {
  if (above !== undefined) return ` above ${above}${max === undefined ? '' : `, at most ${max}`}`;
  if (min !== undefined && max !== undefined) return ` from ${min} to ${max}`;
  if (min !== undefined) return ` of at least ${min}`;
  return max === undefined ? '' : ` of at most ${max}`;
}

/** The value as it may stand in a message: short, and never the insides of an object. */
function display(value: unknown): string {
  if (typeof value === 'string') return shown(value);
  if (typeof value === 'number' || typeof value === 'boolean' || value === null || value === undefined)
    return String(value);
  if (typeof value === 'bigint') return `${value}n`;
  if (Array.isArray(value)) return 'an array';
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'an invalid Date' : value.toISOString();
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}
