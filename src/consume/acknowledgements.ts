import { backoffMs, sleep } from '../backoff.js';
import { Coalescer, type Sized } from '../coalescer.js';
import { isAnswer } from '../errors/answer.js';
import { SluiceError } from '../errors/index.js';
import type { Delivery } from '../sql/settle.js';

/** Who waits for the answer to an acknowledgement. Not a promise: there may be fifty thousand of them in a second. */
export interface Asker {
  /** Whether the delivery was still held. */
  answered(held: boolean): void;
  /** Nobody knows whether it was carried out, or it was refused. */
  failed(error: Error): void;
}

/** Something that the server is told about one delivery. */
export interface Acknowledgement<D extends Delivery = Delivery> extends Sized {
  delivery: D;
  asker: Asker;
  /** Why no answer came when it was sent: it may have been carried out. */
  doubt: Error | undefined;
}

export interface AcknowledgementsOptions<D extends Delivery> {
  /** Answers for each, in order, whether it was still held; calls `onSending` when it is about to send. */
  send: (deliveries: readonly D[], onSending: () => void) => Promise<boolean[]>;
  /** Of deliveries that got no answer, and then were not held: whether it had been carried out, where that can be told. */
  wasCarriedOut?: (deliveries: readonly D[]) => Promise<boolean[]>;
  /** From its abort on nothing is tried again. */
  hurry: AbortSignal;
}

const MAX_GROUP = 5_000;
const RETRY = { baseMs: 50, maxMs: 2_000 };
/** Longest time for an acknowledgement, its retries included. */
const PATIENCE_MS = 30_000;

/**
 * Acknowledgements of one kind. Those that are made while others are under way share the next statement, and each still
 * gets its own answer. They are tried again: the same one twice changes nothing.
 */
export class Acknowledgements<D extends Delivery = Delivery> {
  readonly #coalescer: Coalescer<Acknowledgement<D>>;
  readonly #retrying = new Set<Promise<void>>();

  constructor(private readonly options: AcknowledgementsOptions<D>) {
    this.#coalescer = new Coalescer((group) => this.#settle(group), MAX_GROUP);
  }

  add(delivery: D, asker: Asker): void {
    this.#coalescer.add({ delivery, asker, doubt: undefined, bytes: 0 });
  }

  get waiting(): number {
    return this.#coalescer.waiting;
  }

  /** Takes those that are waiting, to be sent along with something else; then `answer` or `retry` is to be called. */
  take(): Acknowledgement<D>[] {
    return this.#coalescer.take();
  }

  /** They were sent along with something else that failed, or were refused there: they go on their own. */
  retry(acknowledgements: readonly Acknowledgement<D>[], error?: Error): void {
    if (error) doubt(acknowledgements, error);
    const settling = this.#settle(acknowledgements).finally(() => this.#retrying.delete(settling));
    this.#retrying.add(settling);
  }

  /** Resolves when none is waiting or under way. */
  async idle(): Promise<void> {
    await this.#coalescer.idle();
    await Promise.all(this.#retrying);
  }

  /** Never rejects: each acknowledgement learns its own outcome. */
  async #settle(group: readonly Acknowledgement<D>[]): Promise<void> {
    const { hurry } = this.options;
    const deadline = performance.now() + PATIENCE_MS;
    for (let failures = 1; ; failures++) {
      const sending = { begun: false };
      try {
        await this.#send(group, () => (sending.begun = true));
        return;
      } catch (error) {
        if (sending.begun) doubt(group, error);
        const again = error instanceof SluiceError && error.transient && performance.now() < deadline;
        if (!again || hurry.aborted) {
          for (const { asker } of group) asker.failed(error as Error);
          return;
        }
        await sleep(backoffMs(failures, RETRY), hurry).catch(() => undefined);
      }
    }
  }

  async #send(group: readonly Acknowledgement<D>[], onSending: () => void): Promise<void> {
    const deliveries = group.map(({ delivery }) => delivery);
    const held = await this.options.send(deliveries, onSending);
    answer(group, held, await this.#carriedOut(group.filter((one, at) => one.doubt && !held[at])));
  }

  /** Of those that are in doubt, the ones that were carried out. */
  async #carriedOut(open: readonly Acknowledgement<D>[]): Promise<CarriedOut> {
    const { wasCarriedOut } = this.options;
    if (open.length === 0) return new Set();
    if (!wasCarriedOut) {
      return 'unknown';
    }
    const carriedOut = await wasCarriedOut(open.map(({ delivery }) => delivery));
    return new Set(open.filter((_, at) => carriedOut[at]));
  }
}

/** Those acknowledgements without an answer that were carried out; `unknown` where nobody can tell. */
type CarriedOut = ReadonlySet<Acknowledgement> | 'unknown';

/** Tells each of them its answer. */
export function answer(
  acknowledgements: readonly Acknowledgement[],
  held: readonly boolean[],
  carriedOut: CarriedOut = new Set(),
): void {
  acknowledgements.forEach((one, at) => {
    if (held[at] || !one.doubt) one.asker.answered(held[at] === true);
    else if (carriedOut === 'unknown') one.asker.failed(one.doubt);
    else one.asker.answered(carriedOut.has(one));
  });
}

function doubt(acknowledgements: readonly Acknowledgement[], error: unknown): void {
  if (isAnswer(error)) return;
  for (const one of acknowledgements) one.doubt = error as Error;
}
