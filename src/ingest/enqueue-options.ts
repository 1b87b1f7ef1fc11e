import * as check from '../check.js';
import { InvalidOptionError } from '../errors/index.js';
import type { CallersClient } from '../db.js';
import type { Due } from '../sql/scheduled.js';
import type { StoredMessage } from '../types.js';
import type { OutgoingRow } from './call.js';
import { checkKey, checkWindow } from './dedupe-options.js';
import { checkDelay } from './delay.js';

export interface EnqueueOptions {
  /** Seconds until the message is due: a whole number from 0 to 4,294,967,295. @default 0 */
  delaySeconds?: number;
  /** When the message is due, instead of `delaySeconds`; a time that has passed, by the server's clock, means now. */
  at?: Date;
  /**
   * A client of yours: the message goes in as part of the transaction that it is in, and is there when that commits.
   * Consumers are told by the transaction itself. Never tried again.
   */
  client?: CallersClient;
  /** Only with `client`: whether consumers are told; otherwise the message waits for their next look. @default true */
  notify?: boolean;
  /**
   * Takes the message back if it aborts before it is sent, and then rejects with the signal's reason. Once it is sent,
   * an abort rejects with an AmbiguousEnqueueError: the message may be in.
   */
  signal?: AbortSignal;
  /**
   * Up to 2,000 bytes: while the queue remembers the key, messages with the same one are not enqueued, and the call
   * resolves with undefined. With a key a call is also tried again when no answer came (`retries`).
   */
  dedupeKey?: string;
  /** For how long the queue remembers the key, in seconds, from 1 to 315,360,000 (ten years). @default 604800 (a week) */
  dedupeWindowSeconds?: number;
}

export interface BatchEnqueueOptions<In> extends Omit<EnqueueOptions, 'dedupeKey'> {
  /** Key of each payload, as for a single message; undefined for a payload that may come again. */
  dedupeKey?: (payload: In, index: number) => string | undefined;
}

export const ENQUEUE_DELAYED: check.Names<Omit<EnqueueOptions, 'delaySeconds' | 'at'>> = {
  client: true,
  notify: true,
  signal: true,
  dedupeKey: true,
  dedupeWindowSeconds: true,
};
export const ENQUEUE: check.Names<EnqueueOptions> = { ...ENQUEUE_DELAYED, delaySeconds: true, at: true };

/** What a call resolves with: where it has a key, undefined stands for a message that was there already. */
export type Enqueued<Out, Options> = Options extends { dedupeKey: string | ((...args: never[]) => unknown) }
  ? StoredMessage<Out> | undefined
  : StoredMessage<Out>;

export function checkEnqueueOptions(options: EnqueueOptions | BatchEnqueueOptions<never>) {
  const { delaySeconds, at, client, notify, signal, dedupeKey, dedupeWindowSeconds } = options;
  if (client !== undefined) check.client('client', client);
  if (notify !== undefined) check.boolean('notify', notify);
  if (signal !== undefined) check.signal('signal', signal);
  const windowSeconds = checkWindow(dedupeWindowSeconds);
  if (at !== undefined && delaySeconds !== undefined)
    throw new InvalidOptionError('at', 'given without delaySeconds', 'both');
  return { due: dueOf({ at, delaySeconds }), onceOf: onceOf(dedupeKey, windowSeconds) };
}

/** What keeps the like of a payload out, if anything does. */
function onceOf(dedupeKey: unknown, windowSeconds: number) {
  if (dedupeKey === undefined) return undefined;
  const keyOf = typeof dedupeKey === 'function' ? (dedupeKey as (...args: unknown[]) => unknown) : undefined;
  return (payload: unknown, index: number | undefined): OutgoingRow['once'] => {
    const asked = check.read(`dedupeKey of the item at index ${index}`, 'a function that answers', () =>
      keyOf ? keyOf(payload, index) : dedupeKey,
    );
    const key = checkKey(asked, index);
    return key === undefined ? undefined : { key, windowSeconds };
  };
}

export function checkDue(value: unknown): Due {
  const due = check.kind('due', value, '{ delaySeconds } or { at }', check.isObject) as DueOptions;
  const { at, delaySeconds } = check.options('producer.reschedule()', due, DUE);
  if ((at === undefined) === (delaySeconds === undefined))
    throw new InvalidOptionError('due', '{ delaySeconds } or { at }', at ? 'both' : 'neither');
  return dueOf({ at, delaySeconds });
}

function dueOf({ at, delaySeconds = 0 }: DueOptions): Due {
  return at === undefined ? { delaySeconds: checkDelay(delaySeconds) } : { at: check.date('at', at) };
}

interface DueOptions {
  at?: Date | undefined;
  delaySeconds?: number | undefined;
}

const DUE: check.Names<DueOptions> = { at: true, delaySeconds: true };
