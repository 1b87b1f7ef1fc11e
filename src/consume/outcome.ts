import { DeadLetter, RetryAfter } from '../errors/index.js';
import { recognisable } from '../errors/thrown.js';
import type { Message } from '../message.js';
import type { Release } from '../sql/settle.js';
import type { RetryPolicy } from './retry-policy.js';

/** Why messages that have failed too often are dead letters. */
export const EXHAUSTED = 'exhausted';

const MAX_REASON_LENGTH = 1_000;
const MAX_ERROR_LENGTH = 8_000;
/** A cause may be its own cause. */
const MAX_CAUSES = 5;

/** What has become of a message whose handler failed. */
export interface Failure {
  message: Message;
  /** What the handler threw. */
  error: unknown;
  /** When it will be tried again, in seconds; undefined where it is a dead letter. */
  retrySeconds: number | undefined;
  /** Why it is a dead letter: the handler's reason, or `exhausted`; undefined where it is tried again. */
  deadReason: string | undefined;
}

/** What is to become of a message whose handler failed with `error`. */
export function afterFailure(
  message: Pick<Message, 'id' | 'readCount'>,
  thrown: unknown,
  policy: RetryPolicy,
  maxReadCount: number,
): Release {
  const error = recognisable(thrown);
  const { id, readCount } = message;
  const reason =
    error instanceof DeadLetter ? error.reason : readCount >= maxReadCount ? EXHAUSTED : undefined;
  if (reason !== undefined) {
    return {
      id,
      readCount,
      delaySeconds: 0,
      dead: { reason: storable(shown(reason), MAX_REASON_LENGTH), lastError: described(error) },
    };
  }
  const delaySeconds = error instanceof RetryAfter ? error.seconds : policy(readCount, error);
  return { id, readCount, delaySeconds };
}

/** An error as an operator needs it: with its stack, and that of its causes. Handlers throw anything. */
function described(error: unknown, depth = 0): string {
  return shown(error, () => {
    if (!(error instanceof Error)) return String(error);
    const own = error.stack ?? String(error);
    if (error.cause === undefined || depth === MAX_CAUSES) return own;
    return `${own}\ncaused by: ${described(error.cause, depth + 1)}`;
  });
}

function shown(thrown: unknown, show = () => String(thrown)): string {
  try {
    return storable(show(), MAX_ERROR_LENGTH);
  } catch {
    return 'something that cannot be shown as text';
  }
}

/** PostgreSQL stores no NUL. */
function storable(text: string, maxLength: number): string {
  return text.slice(0, maxLength).replaceAll('\0', '\ufffd');
}
