import { inspect } from 'node:util';
import { PayloadCheck } from '../validation.js';
import type { Reject } from './rejects.js';

/** What a reject becomes in the queue of rejects. */
export interface RejectMessage {
  json: string;
  /** Length of `json` in UTF-8. */
  bytes: number;
  /** About what the item takes in memory. */
  heldBytes: number;
}

/** What jsonb stores and pgqrs reads, in an object of ours, whatever the rules of the queue. */
const STORABLE = new PayloadCheck({ maxPayloadBytes: 268_435_455, maxDepth: 125, forbiddenKeys: [] });

/**
 * Holds the item itself where it can be stored, else its JSON as a text, else what can be said of it.
 * @param queue that the item was meant for
 * @param maxBytes longest item or text that is kept whole
 */
export function rejectMessage(
  { item, text, reason, ...reject }: Reject,
  queue: string,
  maxBytes: number,
): RejectMessage {
  const head = { queue, ...reject, reason: storable(reason) };
  const json = text === undefined ? storableJson(item) : undefined;
  const jsonBytes = json === undefined ? Infinity : Buffer.byteLength(json);
  // As it was judged: a toJSON() may answer otherwise when it is asked again.
  if (jsonBytes <= maxBytes)
    return message(`${JSON.stringify(head).slice(0, -1)},"item":${json ?? 'null'}}`, jsonBytes);
  const whole = text ?? json ?? asText(item);
  return message(JSON.stringify({ ...head, text: cut(whole, maxBytes) }), whole.length);
}

function message(json: string, heldBytes: number): RejectMessage {
  return { json, bytes: Buffer.byteLength(json), heldBytes };
}

function storableJson(item: unknown): string | undefined {
  try {
    return STORABLE.toJson(item);
  } catch {
    return undefined;
  }
}

/** Its type in lib.es5 leaves out that it answers undefined for what has no JSON form. */
const stringify: (value: unknown) => string | undefined = JSON.stringify;

/** JSON with its escapes spelled out is a text like any other; what has no JSON is shown as a debugger would. */
function asText(item: unknown): string {
  try {
    return stringify(item) ?? inspect(item);
  } catch {
    return inspected(item);
  }
}

function inspected(item: unknown): string {
  try {
    return inspect(item, { depth: 4, maxStringLength: 10_000 });
  } catch {
    return `[${typeof item} that cannot be shown]`;
  }
}

/** Escapes may make it eight times as long. */
function cut(text: string, maxBytes: number): string {
  return storable(Buffer.byteLength(text) <= maxBytes ? text : text.slice(0, maxBytes / 8));
}

/** Without NUL and halves of surrogate pairs, such as a cut leaves: jsonb would refuse the whole batch for one. */
function storable(text: string): string {
  return text.replaceAll(/[\0\p{Cs}]/gu, '\ufffd');
}
