import { backoffMs, sleep } from '../backoff.js';
import { Coalescer, type Sized } from '../coalescer.js';
import { isAnswer, isRefusal, tookTooLong } from '../errors/answer.js';
import { SluiceError } from '../errors/index.js';
import type { Delivery } from '../sql/settle.js';
import { Reach } from './reach.js';

/** Whether a delivery was still held; `unknown` where an answer was lost and nobody can tell what it was. */
export type Answer = boolean | 'unknown';

/** What the server is told about one delivery. An object and no promise: there may be fifty thousand in a second. */
export abstract class Acknowledgement<D extends Delivery = Delivery> implements Sized {
  readonly bytes = 0;
  /** Why no answer came when it was sent: it may have been carried out. */
  doubt: Error | undefined;

  constructor(readonly delivery: D) {}

  /** Called once, unless `failed` is. */
  abstract answered(held: Answer): void;
  /** Called once: it was refused, or nobody knows whether it was carried out. */
  abstract failed(error: Error): void;
  /** Whether it is to be tried again after a failure that passes. */
  abstract get isWanted(): boolean;
}

/** Longest time for an acknowledgement that a caller waits for, its retries included. */
const PATIENCE_MS = 30_000;

/** An acknowledgement that a caller waits for. */
export class Asked<D extends Delivery> extends Acknowledgement<D> {
  readonly answer: Promise<boolean>;
  readonly #untilMs = performance.now() + PATIENCE_MS;
  #resolve!: (held: boolean) => void;
  #reject!: (error: Error) => void;

  constructor(delivery: D) {
    super(delivery);
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  answered(held: Answer): void {
    if (held === 'unknown') this.#reject(this.doubt as Error);
    else this.#resolve(held);
  }

  failed(error: Error): void {
    this.#reject(error);
  }

  get isWanted(): boolean {
    return performance.now() < this.#untilMs;
  }
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

/**
 * Acknowledgements of one kind. Those that are made while others are under way share the next statement, and each still
 * gets its own answer. A group that fails leaves the queue and is seen to beside it: what passes is tried again, since
 * the same one twice changes nothing; what the server refuses is halved until what it refuses stands alone.
 */
export class Acknowledgements<D extends Delivery = Delivery> {
  readonly #queue: Coalescer<Acknowledgement<D>>;
  readonly #reach = new Reach(MAX_GROUP);
  readonly #failed = new Set<Promise<void>>();

  constructor(private readonly options: AcknowledgementsOptions<D>) {
    this.#queue = new Coalescer(
      async (group) => {
        const error = await this.#send(group);
        if (error) this.#aside(this.#mend(group, error, 1));
      },
      () => this.#reach.size,
    );
  }

  add(acknowledgement: Acknowledgement<D>): void {
    this.#queue.add(acknowledgement);
  }

  get waiting(): number {
    return this.#queue.waiting;
  }

  /** Takes those that are waiting, to be sent along with something else; then `answered` or `again` is due. */
  take(): Acknowledgement<D>[] {
    return this.#queue.take();
  }

  /** Tells each of them its answer. */
  answered(group: readonly Acknowledgement<D>[], held: readonly Answer[]): void {
    group.forEach((one, at) => one.answered(held[at] ?? false));
  }

  /** What they were sent along with failed, or was refused for their sake: they go on their own. */
  again(group: readonly Acknowledgement<D>[], error?: unknown): void {
    if (error) doubt(group, error);
    this.#aside(this.#deliver(group));
  }

  /** Resolves when none is waiting or under way. */
  async idle(): Promise<void> {
    await this.#queue.idle();
    while (this.#failed.size > 0) await Promise.all(this.#failed);
  }

  #aside(work: Promise<void>): void {
    const aside = work.finally(() => this.#failed.delete(aside));
    this.#failed.add(aside);
  }

  async #deliver(group: readonly Acknowledgement<D>[], failures = 0): Promise<void> {
    const error = await this.#send(group);
    if (error) await this.#mend(group, error, failures + 1);
  }

  /** One part after the other, so that trouble sends one statement at a time. */
  async #mend(group: readonly Acknowledgement<D>[], error: Error, failures: number): Promise<void> {
    if (group.length > 1 && (isRefusal(error) || tookTooLong(error))) {
      const half = Math.ceil(group.length / 2);
      await this.#deliver(group.slice(0, half));
      await this.#deliver(group.slice(half));
      return;
    }
    const again = error instanceof SluiceError && error.transient && !this.options.hurry.aborted;
    const wanted = again ? group.filter(({ isWanted }) => isWanted) : [];
    for (const one of group) if (!again || !one.isWanted) one.failed(error);
    if (wanted.length === 0) return;
    await sleep(backoffMs(failures, RETRY), this.options.hurry).catch(() => undefined);
    await this.#deliver(wanted, failures);
  }

  /** @returns why it failed: then none of them has had its answer */
  async #send(group: readonly Acknowledgement<D>[]): Promise<Error | undefined> {
    const sending = { begun: false };
    try {
      const deliveries = group.map(({ delivery }) => delivery);
      const held = await this.options.send(deliveries, () => (sending.begun = true));
      const carriedOut = await this.#carriedOut(group.filter((one, at) => one.doubt && !held[at]));
      this.#reach.managed(group.length);
      this.answered(
        group,
        group.map((one, at) => held[at] === true || (carriedOut.get(one) ?? false)),
      );
      return undefined;
    } catch (error) {
      if (sending.begun) doubt(group, error);
      if (tookTooLong(error)) this.#reach.tookTooLong(group.length);
      return error as Error;
    }
  }

  /** What became of those that are in doubt and not held any more. */
  async #carriedOut(open: readonly Acknowledgement<D>[]): Promise<ReadonlyMap<Acknowledgement<D>, Answer>> {
    const { wasCarriedOut } = this.options;
    if (open.length === 0 || !wasCarriedOut) return new Map(open.map((one) => [one, 'unknown']));
    const carriedOut = await wasCarriedOut(open.map(({ delivery }) => delivery));
    return new Map(open.map((one, at) => [one, carriedOut[at] === true]));
  }
}

function doubt(group: readonly Acknowledgement[], error: unknown): void {
  if (isAnswer(error)) return;
  for (const one of group) one.doubt = error as Error;
}
