import { InvalidOptionError } from './errors/index.js';
import { checkKnownName } from './known-name.js';
import { shown } from './shown.js';
import type { Id, Queue } from './types.js';

/** The names in an options interface: the compiler refuses a list that has more or fewer of them than the interface. */
export type Names<T> = Readonly<Record<keyof T, true>>;

/**
 * Refuses what is not an object of options, and options that the call does not know: plain JavaScript has no compiler
 * that finds a misspelt one.
 * @param call as it stands in messages: `producer.enqueue()`
 * @returns a copy, since the caller may go on to change the original; what is undefined counts as not given
 */
export function options<T extends object>(call: string, value: T | undefined, names: Names<T>): T {
  if (value === undefined) return {} as T;
  return read(`options of ${call}`, 'an object', () => {
    kind(`options of ${call}`, value, 'an object', isPlain);
    const known = Object.keys(names);
    for (const name of Object.keys(value)) checkKnownName(`option of ${call}`, name, known);
    const given = known.map((name): [string, unknown] => [name, value[name as keyof T]]);
    return Object.fromEntries(given.filter(([, option]) => option !== undefined)) as T;
  });
}

/** A filter that says what is meant, or all of it in so many words. */
export type Selection<Filter> = (Filter & { all?: never }) | { all: true };

/**
 * As `options`, for what deletes or changes whatever fits: a filter without anything defined is refused, since it would
 * mean everything.
 * @returns the filter; empty for all
 */
export function selection<F extends object>(call: string, value: Selection<F>, names: Names<F>): Partial<F> {
  const known = { ...names, all: true } as Names<Partial<F> & { all?: unknown }>;
  const { all, ...filter } = options<Partial<F> & { all?: unknown }>(call, value as Partial<F>, known);
  const given = Object.keys(filter);
  const fits = all === undefined ? given.length > 0 : all === true && given.length === 0;
  if (!fits) {
    const got = [...(all === undefined ? [] : [`all: ${display(all)}`]), ...given].join(', ');
    const rule = 'one filter at least, or { all: true } alone';
    throw new InvalidOptionError(`options of ${call}`, rule, got === '' ? 'none that is defined' : got);
  }
  return filter as unknown as Partial<F>;
}

/** Objects of options may be of a class of the caller's; but not a list, a Date, a signal, or a promise without its await. */
function isPlain(value: unknown): value is object {
  return Object.prototype.toString.call(value) === '[object Object]';
}

/** Reads what is the caller's, where getters and proxies may throw anything. */
export function read<T>(field: string, rule: string, reading: () => T): T {
  try {
    return reading();
  } catch (cause) {
    if (cause instanceof InvalidOptionError) throw cause;
    throw new InvalidOptionError(field, rule, 'something that throws when it is read', { cause });
  }
}

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

/**
 * Refuses what is not a non-empty string of at most `maxBytes` bytes that PostgreSQL can store: it has no NUL, and as
 * UTF-8 all lone surrogates are one and the same character.
 */
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
  if (/\p{Surrogate}/u.test(value))
    throw new InvalidOptionError(field, 'a string without lone surrogates', display(value));
  return value;
}

/** Refuses what is not a list of strings. Returns a frozen copy: the caller may go on to change the original. */
export function strings(field: string, value: unknown): readonly string[] {
  const rule = 'a list of strings';
  const copy = list(field, value, rule).map((item, index) => {
    if (typeof item === 'string') return item;
    throw new InvalidOptionError(field, rule, `${display(item)} at index ${index}`);
  });
  return Object.freeze(copy);
}

/** Refuses what is not an array. Returns a copy, whose holes are undefined. */
export function list(field: string, value: unknown, rule = 'an array'): unknown[] {
  return read(field, rule, () => Array.from(kind<unknown[]>(field, value, rule, Array.isArray)));
}

export function boolean(field: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw new InvalidOptionError(field, 'true or false', display(value));
  return value;
}

export function signal(field: string, value: unknown): AbortSignal {
  return kind(field, value, 'an AbortSignal', (it): it is AbortSignal => it instanceof AbortSignal);
}

/** Refuses what is not a Date that PostgreSQL can store. Returns a copy. */
export function date(field: string, value: unknown): Date {
  return read(field, 'a valid Date', () => {
    const ms = Date.prototype.getTime.call(kind(field, value, 'a valid Date', isDate));
    if (Number.isNaN(ms)) throw new InvalidOptionError(field, 'a valid Date', display(value));
    if (ms < EARLIEST_MS) throw new InvalidOptionError(field, 'a Date after 4713 BC', display(value));
    return new Date(ms);
  });
}

const EARLIEST_MS = Date.UTC(-4711, 0);

function isDate(value: unknown): value is Date {
  return value instanceof Date;
}

/** Refuses what is not a function. */
export function callback<F>(field: string, value: F): F {
  return kind(field, value, 'a function', (given): given is F => typeof given === 'function');
}

/** Refuses what is not a client of pg: a pool, too, which would run each statement on another one. */
export function client<C>(field: string, value: C): C {
  return kind(
    field,
    value,
    'a client of pg, in a transaction',
    (given): given is C =>
      isObject(given) && typeof given['query'] === 'function' && !('totalCount' in given),
  );
}

/** Refuses what is not a pool of pg. */
export function pool<P>(field: string, value: P): P {
  return kind(
    field,
    value,
    'a pool of pg',
    (given): given is P =>
      isObject(given) &&
      typeof given['connect'] === 'function' &&
      typeof given['query'] === 'function' &&
      isObject(given['options']),
  );
}

/** Refuses what is not a queue, as `admin.getQueue()` answers it. */
export function queue(field: string, value: Queue): Queue {
  return read(field, 'a queue, of admin.getQueue()', () => {
    kind(field, value, 'a queue, of admin.getQueue()', isObject);
    id(`${field}.id`, value.id);
    return kind(
      field,
      value,
      'a queue, of admin.getQueue()',
      (it): it is Queue => typeof (it as Queue).name === 'string',
    );
  });
}

/** Refuses what is not of the kind that `rule` names. */
export function kind<T>(field: string, value: unknown, rule: string, is: (value: unknown) => value is T): T {
  if (!read(field, rule, () => is(value))) throw new InvalidOptionError(field, rule, display(value));
  return value as T;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

/** Refuses what is not one of the choices. */
export function oneOf<T extends string>(field: string, value: unknown, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === value);
  if (found === undefined)
    throw new InvalidOptionError(field, `one of ${choices.join(', ')}`, display(value));
  return found;
}

/** An id that fits int8, as the decimal string in which ids travel in JavaScript. */
export function id(field: string, value: unknown): Id {
  const text = typeof value === 'bigint' || Number.isSafeInteger(value) ? String(value) : value;
  if (typeof text !== 'string' || !/^[1-9]\d{0,18}$/.test(text) || BigInt(text) > 9223372036854775807n) {
    const rule = 'an id: a positive decimal string, bigint or safe integer';
    throw new InvalidOptionError(field, rule, display(value));
  }
  return text;
}

/** One id or a list of them. */
export function ids(value: unknown): Id[] {
  if (isObject(value))
    return list('ids', value, 'an id or a list of ids').map((one, index) => id(`ids[${index}]`, one));
  return [id('id', value)];
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
  if (typeof value !== 'object') return `a ${typeof value}`;
  try {
    if (Array.isArray(value)) return 'an array';
    if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'an invalid Date' : value.toISOString();
  } catch {
    return 'an object that throws when it is read';
  }
  return 'an object';
}
