import { MessageStream } from '../../streams/message-stream.js';
import type { Message } from '../message.js';
import { Holding, type HoldingParts } from './holding.js';
import { Pace } from './pace.js';
import type { Held } from './work.js';

export interface ReadingOptions {
  /** @default by the reader's pace */
  prefetch: number | undefined;
  lockSeconds: number;
  signal: AbortSignal | undefined;
}

/** Messages as a Readable and async iterable. */
export type Messages<T> = MessageStream<Message<T>, Held>;

/** Of a lease's time: where less is left a message is handed out with a new one. */
const FRESH = 0.9;

/**
 * Messages for a reader. Their leases are renewed while they wait, and anew when they are handed out, so that the reader
 * has the whole time; what has lost its lease is not handed out. From then on the lease is the reader's affair.
 */
export function reading<T>(parts: HoldingParts, options: ReadingOptions): Messages<T> {
  const { prefetch, lockSeconds, signal } = options;
  const holding = new Holding({ ...parts, lockSeconds, onRoom: () => stream.poke() });
  const pace = new Pace(1);
  let isHandling = false;
  const handled = () => {
    if (isHandling) pace.ended();
    isHandling = false;
  };

  const stream = new MessageStream<Message<T>, Held>(holding, {
    prefetch: () => prefetch ?? pace.ahead(),
    memory: holding.memory,
    isOver: (held) => held.isOver,
    refresh: (held) => {
      const isLast = parts.deliveries.isLastChance(held.message);
      if (held.leftMs >= lockSeconds * 1_000 * FRESH && !isLast) return undefined;
      // Where the server can't be asked, what is left must do.
      const extended = holding.leases.extend([held], lockSeconds).then(ignore, ignore);
      if (!isLast) return extended;
      const marked = parts.deliveries.markBegun(held.message).then(ignore, ignore);
      return Promise.all([extended, marked]).then(ignore);
    },
    unwrap: (held) => held.message as Message<T>,
    onHandedOut: (held) => {
      holding.leases.remove(held);
      handled();
      isHandling = true;
      pace.began();
    },
    onAsked: handled,
    ...(prefetch === undefined && { giveBackSurplus: (held: Held[]) => holding.giveBackSurplus(held) }),
    signal,
  });
  return stream;
}

const ignore = () => undefined;
