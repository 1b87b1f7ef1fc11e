import * as check from './check.js';
import { PayloadInvalidError, PayloadTooLargeError } from './errors/index.js';

/** What a payload must be like, beside being JSON that jsonb can store. */
export interface PayloadRules {
  /** Longest payload, in bytes of JSON, from 1 to 268,435,455. @default 1048576 */
  maxPayloadBytes: number;
  /** Longest string and key, in bytes of UTF-8. @default no limit */
  maxStringBytes: number | undefined;
  /** Deepest nesting: the payload itself is at depth 0, what it holds at 1. @default 127 */
  maxDepth: number;
  /**
   * Refuses what a client of pgqrs cannot read, whose whole batch would stay leased for one such payload: more than 127
   * arrays and objects in one another, and Number.MAX_VALUE. Turn it off for queues that pgqrs never reads.
   * @default true
   */
  readableByPgqrs: boolean;
  /** Keys that no object at any level may have. @default ['__proto__', 'constructor'] */
  forbiddenKeys: readonly string[];
  /** Keys that the payload must have, which must then be an object. @default none */
  requiredKeys: readonly string[];
}

/** Those that are not given, or undefined, have their defaults. */
export type PayloadRulesGiven = { [Rule in keyof PayloadRules]?: PayloadRules[Rule] | undefined };

export const PAYLOAD_RULES: check.Names<PayloadRules> = {
  maxPayloadBytes: true,
  maxStringBytes: true,
  maxDepth: true,
  readableByPgqrs: true,
  forbiddenKeys: true,
  requiredKeys: true,
};

/** jsonb holds no longer string, and no longer object or array. */
const LONGEST_BYTES = 268_435_455;

/** Arrays and objects in one another that serde_json, pgqrs' parser, reads; the next one is "recursion limit exceeded". */
const SERDE_NESTING = 127;
/**
 * The one number of JavaScript's that serde_json reads as "out of range": it multiplies out what jsonb has rounded to 17
 * digits, and passes the largest double.
 */
const SERDE_LIMIT = '1.7976931348623157e+308';

/**
 * Fills in the defaults and checks the ranges.
 * @throws {InvalidOptionError} naming the field
 */
export function checkPayloadRules(options: PayloadRulesGiven): PayloadRules {
  const { maxPayloadBytes = 1_048_576, maxStringBytes, maxDepth = 127, readableByPgqrs = true } = options;
  const bytes = { min: 1, max: LONGEST_BYTES };
  return {
    maxPayloadBytes: check.integer('maxPayloadBytes', maxPayloadBytes, bytes),
    maxStringBytes:
      maxStringBytes === undefined ? undefined : check.integer('maxStringBytes', maxStringBytes, bytes),
    maxDepth: check.integer('maxDepth', maxDepth, { min: 0, max: 10_000 }),
    readableByPgqrs: check.boolean('readableByPgqrs', readableByPgqrs),
    forbiddenKeys: check.strings('forbiddenKeys', options.forbiddenKeys ?? ['__proto__', 'constructor']),
    requiredKeys: check.strings('requiredKeys', options.requiredKeys ?? []),
  };
}

/**
 * Turns payloads into JSON that jsonb stores, and refuses those that break a rule of pgqrs' validator, in its words.
 *
 * The JSON text is judged, not the object: `toJSON`, `undefined` and Dates make them differ. Where the text alone shows
 * that a rule cannot be broken, which is nearly always, it is not parsed again.
 */
export class PayloadCheck {
  readonly #forbidden: readonly { key: string; needle: string; tail: string }[];

  readonly rules: PayloadRules;

  /** @throws {InvalidOptionError} a rule is out of its range */
  constructor(options: PayloadRulesGiven = {}) {
    this.rules = checkPayloadRules(check.options('new PayloadCheck()', options, PAYLOAD_RULES));
    this.#forbidden = this.rules.forbiddenKeys.map((key) => {
      const needle = `${JSON.stringify(key)}:`;
      return { key, needle, tail: needle.slice(1) };
    });
  }

  /**
   * The payload as JSON; its length is left to `checkSize`, since who stores it measures it anyway.
   * @param index place of the payload in its source, for errors
   * @throws {PayloadInvalidError}
   */
  toJson(payload: unknown, index?: number): string {
    const json = serialise(payload, index);
    if (this.#isSuspect(json)) {
      const reason = this.#broken(JSON.parse(json));
      if (reason !== undefined) throw new PayloadInvalidError(index, reason);
    }
    return json;
  }

  /** @throws {PayloadTooLargeError} */
  checkSize(bytes: number, index?: number): void {
    const { maxPayloadBytes } = this.rules;
    if (bytes > maxPayloadBytes) throw new PayloadTooLargeError(index, bytes, maxPayloadBytes);
  }

  /** Whether the text leaves room for a broken rule. */
  #isSuspect(json: string): boolean {
    const { maxStringBytes, maxDepth, readableByPgqrs, requiredKeys } = this.rules;
    // A key's end is looked for first: most of what a text holds are quotes, and a search that begins with one crawls.
    for (const { tail, needle } of this.#forbidden)
      if (json.includes(tail) && json.includes(needle)) return true;
    if (requiredKeys.length > 0) return true;
    // UTF-8 takes at most 3 bytes per UTF-16 unit.
    if (maxStringBytes !== undefined && json.length * 3 > maxStringBytes) return true;
    if (readableByPgqrs && json.includes(SERDE_LIMIT)) return true;
    return nestsDeeper(json, readableByPgqrs ? Math.min(maxDepth, SERDE_NESTING) : maxDepth);
  }

  /** The first broken rule in pgqrs' order, which sorts keys. Sorting is put off until something is found at all. */
  #broken(payload: unknown): string | undefined {
    return this.#walk(payload, Object.keys) && this.#walk(payload, sortedKeys);
  }

  /** Without recursion: JSON may be nested deeper than the stack is. */
  #walk(payload: unknown, keysOf: (value: object) => string[]): string | undefined {
    const { maxStringBytes = Infinity, maxDepth, readableByPgqrs } = this.rules;
    const pending: Visit[] = [{ key: '', value: payload, depth: 0 }];
    for (let visit = pending.pop(); visit; visit = pending.pop()) {
      const { key, value, depth } = visit;
      const keyBytes = bytesOver(key, maxStringBytes);
      if (keyBytes) return `Key ${quoted(key)} length ${keyBytes} exceeds limit ${maxStringBytes}`;
      if (depth > maxDepth) return `Object depth ${depth} exceeds limit ${maxDepth}`;
      const unfit = this.#unfitKey(value, depth) ?? (readableByPgqrs ? unreadable(value, depth) : undefined);
      if (unfit) return unfit;
      if (typeof value === 'string') {
        const bytes = bytesOver(value, maxStringBytes);
        if (bytes) return `String length ${bytes} exceeds limit ${maxStringBytes}`;
      } else if (Array.isArray(value)) {
        for (let i = value.length - 1; i >= 0; i--)
          pending.push({ key: '', value: value[i] as unknown, depth: depth + 1 });
      } else if (isObject(value)) {
        const names = keysOf(value);
        for (let i = names.length - 1; i >= 0; i--) {
          const name = names[i] as string;
          pending.push({ key: name, value: value[name], depth: depth + 1 });
        }
      }
    }
    return undefined;
  }

  #unfitKey(value: unknown, depth: number): string | undefined {
    const object = isObject(value) ? value : undefined;
    if (object) {
      const found = this.rules.forbiddenKeys.find((key) => Object.hasOwn(object, key));
      if (found !== undefined) return `Forbidden key ${quoted(found)} found in payload`;
    }
    if (depth > 0) return undefined;
    // pgqrs lets a payload pass that is no object and so has none of the keys.
    const missing = this.rules.requiredKeys.find((key) => !object || !Object.hasOwn(object, key));
    return missing === undefined ? undefined : `Required key ${quoted(missing)} missing from payload`;
  }
}

interface Visit {
  /** Of the value in its object; empty in arrays. */
  key: string;
  value: unknown;
  depth: number;
}

/** Its type in lib.es5 leaves out that it answers undefined for what has no JSON form. */
const stringify: (value: unknown) => string | undefined = JSON.stringify;

function serialise(payload: unknown, index: number | undefined): string {
  let json: string | undefined;
  try {
    json = stringify(payload);
  } catch (error) {
    throw unserialisable(error, index);
  }
  if (json === undefined) {
    throw new PayloadInvalidError(index, 'undefined, functions and symbols have no JSON form');
  }
  // Pairs come from JSON.rawJSON() alone.
  if (
    json.includes('\\u') &&
    REFUSED_ESCAPE.test(json) &&
    REFUSED_ESCAPE.test(json.replace(ESCAPED_PAIR, '$1'))
  ) {
    throw new PayloadInvalidError(index, 'jsonb stores neither NUL characters (\\u0000) nor lone surrogates');
  }
  return json;
}

/** `JSON.stringify` writes proper surrogate pairs raw, so an escaped surrogate is a lone one. */
const REFUSED_ESCAPE = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/;

const ESCAPED_PAIR = /(?<!\\)((?:\\\\)*)\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}/gi;

const NO_BIGINT =
  'a bigint has no JSON form: give it as a string, as JSON.rawJSON(String(value)) where there is that, or give BigInt.prototype a toJSON()';

/** V8's own refusals: cycles, depth, length. */
const V8_REFUSAL = /^(?:Converting circular|Maximum call stack|Invalid string length|Cannot create a string)/;

function unserialisable(error: unknown, index: number | undefined): PayloadInvalidError {
  // The first line says what it is; the rest of V8's message shows keys of the payload.
  const reason = messageOf(error);
  if (reason === 'Do not know how to serialize a BigInt') return new PayloadInvalidError(index, NO_BIGINT);
  if (V8_REFUSAL.test(reason)) return new PayloadInvalidError(index, reason);
  return new PayloadInvalidError(index, 'its toJSON() or one of its getters threw', { cause: error });
}

/** The first line of it. What a toJSON() throws may itself throw when it is looked at. */
function messageOf(error: unknown): string {
  try {
    return error instanceof Error ? (error.message.split('\n')[0] ?? '') : '';
  } catch {
    return '';
  }
}

function unreadable(value: unknown, depth: number): string | undefined {
  const why = (what: string) =>
    `${what}, which clients of pgqrs cannot read (readableByPgqrs: false allows it)`;
  if (typeof value === 'number' && Math.abs(value) >= Number.MAX_VALUE)
    return why('a number of 1.7976931348623157e308 or more');
  if (depth >= SERDE_NESTING && typeof value === 'object' && value !== null)
    return why(`more than ${SERDE_NESTING} arrays and objects in one another`);
  return undefined;
}

/** Whether more than `limit` arrays and objects are open at once. Most texts have fewer of them altogether. */
function nestsDeeper(json: string, limit: number): boolean {
  if (!hasMoreBrackets(json, limit)) return false;
  let open = 0;
  for (let at = 0; at < json.length; at++) {
    switch (json[at]) {
      case '"':
        at = endOfString(json, at);
        break;
      case '[':
      case '{':
        if (++open > limit) return true;
        break;
      case ']':
      case '}':
        open--;
    }
  }
  return false;
}

function endOfString(json: string, start: number): number {
  for (let end = json.indexOf('"', start + 1); ; end = json.indexOf('"', end + 1)) {
    let backslashes = 0;
    while (json[end - 1 - backslashes] === '\\') backslashes++;
    if (backslashes % 2 === 0) return end;
  }
}

/** Each level opens with a bracket, so a text that has too few of them cannot be deeper. */
function hasMoreBrackets(json: string, limit: number): boolean {
  let brackets = 0;
  for (const bracket of ['{', '[']) {
    for (let at = json.indexOf(bracket); at !== -1; at = json.indexOf(bracket, at + 1))
      if (++brackets > limit) return true;
  }
  return false;
}

/** How long the text is in UTF-8, or 0 when that is within the limit. */
function bytesOver(text: string, limit: number): number {
  if (text.length * 3 <= limit) return 0;
  const bytes = Buffer.byteLength(text);
  return bytes > limit ? bytes : 0;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** In the order of their UTF-8 bytes, as Rust sorts them. JavaScript's own puts U+E000 to U+FFFF behind emoji. */
function sortedKeys(value: object): string[] {
  return Object.keys(value).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

/** A key as it may stand in a message: like `shown`, but in pgqrs' quotes and with its own left alone. */
function quoted(key: string): string {
  const short = key.length > 80 ? `${key.slice(0, 77)}…` : key;
  // Control characters, halves of surrogate pairs, line and paragraph separators.
  const printable = short.replaceAll(
    /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return `'${printable}'`;
}
