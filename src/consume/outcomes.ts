import { type Deferred, deferred, settledWithin } from '../deferred.js';
import { isRefusal } from '../errors/answer.js';
import { LeaseLostError, RetryAfter } from '../errors/index.js';
import type { Message } from '../message.js';
import type { Release, SettledBy } from '../sql/settle.js';
import { Acknowledgement, type Answer } from './acknowledgements.js';
import type { Deliveries } from './deliveries.js';
import type { Leases } from './leases.js';
import type { Failure } from './outcome.js';
import type { RunSummary } from './run-options.js';
import type { Held } from './work.js';

/** Answers come many at a time. */
const SETTLED_AT_ONCE = 256;

/** What a message has become, as the summary counts it. */
type Became = keyof RunSummary;

export interface OutcomesOptions {
  deliveries: Deliveries;
  leases: Leases;
  onSuccess: SettledBy;
  onFailed: (failure: Failure) => void;
  onLost: (message: Message, error: LeaseLostError | undefined) => void;
  /** Called now and then, and when none is open any more. */
  onSettled: () => void;
  /** The server refuses whatever it is told, or nobody can be told any more. */
  onRefused: (error: Error) => void;
}

/** Tells the server what messages have become, and counts it. */
export class Outcomes {
  readonly summary: RunSummary = { done: 0, retried: 0, dead: 0, lost: 0, released: 0 };
  #open = 0;
  /** Settled when none is open any more. */
  #closed: Deferred<void> | undefined;
  /** Nothing is waited for any more. */
  #over = false;

  constructor(private readonly options: OutcomesOptions) {}

  /** Messages whose outcome the server has not been told yet. */
  get open(): number {
    return this.#open;
  }

  /** It has become that: the server knows. */
  are(held: Held, became: Became): void {
    this.options.leases.remove(held);
    this.summary[became]++;
    if (became === 'lost') this.options.onLost(held.message, held.lost);
    held.onOver?.();
  }

  done(held: Held): void {
    const { deliveries, onSuccess } = this.options;
    this.#open++;
    deliveries.settle(onSuccess, new Done(this, held));
  }

  /** Interrupted, which is not its fault: it goes back uncounted. */
  released(held: Held): void {
    held.message.end();
    this.#open++;
    this.options.deliveries.giveBackOne(new GivenBack(this, held));
  }

  /** @param otherwise what has become of it where it is not held any more */
  failed(held: Held, error: unknown, otherwise?: Became): void {
    const { message } = held;
    const release = this.#afterFailure(message, error);
    const retrySeconds = release.dead ? undefined : release.delaySeconds;
    const failure = { message, error, retrySeconds, deadReason: release.dead?.reason };
    const became = release.dead ? 'dead' : 'retried';
    this.#open++;
    this.options.deliveries.letGo(new LetGo(this, held, release, became, otherwise, failure));
  }

  /** @internal the server has answered @param failure what it is about, where it is so */
  answered(held: Held, became: Became, failure?: Failure): void {
    this.are(held, became);
    if (failure) this.options.onFailed(failure);
    this.#close();
  }

  /** @internal the server refuses to settle it: so it has failed, whatever the handler says */
  refused(held: Held, error: Error): void {
    this.failed(held, error);
    this.#close();
  }

  /** @internal the server refuses even to take it back: its lease runs out by itself */
  stuck(held: Held, error: Error): void {
    held.lost ??= new LeaseLostError(held.message.id, { cause: error });
    this.answered(held, 'lost');
  }

  /** @internal nobody can be told any more, of this one or any other */
  broken(held: Held, error: Error): void {
    this.options.leases.remove(held);
    this.options.onRefused(error);
    held.onOver?.();
    this.#close();
  }

  /** @internal whether it is still worth while to tell the server anything */
  get isOver(): boolean {
    return this.#over;
  }

  /** Waits for those that are open, but not for longer than that. @returns whether none is left */
  async end(ms: number): Promise<boolean> {
    if (this.#open > 0) {
      this.#closed = deferred();
      await settledWithin(ms, this.#closed.promise);
    }
    this.#over = true;
    return this.#open === 0;
  }

  #close(): void {
    if (--this.#open === 0) this.#closed?.resolve();
    if (this.#open % SETTLED_AT_ONCE === 0) this.options.onSettled();
  }

  /** A policy of the caller's that throws, or answers nonsense, is an error like the handler's own. */
  #afterFailure(message: Message, error: unknown): Release {
    const { deliveries } = this.options;
    try {
      return deliveries.afterFailure(message, error);
    } catch (wrong) {
      return deliveries.afterFailure(message, new RetryAfter(1, { cause: wrong }));
    }
  }
}

/** A message whose handler has succeeded, until the server has answered, or the run is over and its lease runs out. */
class Done extends Acknowledgement {
  constructor(
    private readonly outcomes: Outcomes,
    private readonly held: Held,
  ) {
    super(held.message);
  }

  /** Nobody else can have taken it but after the end of its lease: unknown is as good as carried out. */
  answered(answer: Answer): void {
    this.outcomes.answered(this.held, answer ? 'done' : 'lost');
  }

  failed(error: Error): void {
    if (isRefusal(error)) this.outcomes.refused(this.held, error);
    else this.outcomes.broken(this.held, error);
  }

  get isWanted(): boolean {
    return !this.outcomes.isOver;
  }
}

/** A message whose handler has failed: it is to be tried again, or is a dead letter. */
class LetGo extends Acknowledgement<Release> {
  constructor(
    private readonly outcomes: Outcomes,
    private readonly held: Held,
    release: Release,
    private readonly became: Became,
    private readonly otherwise: Became = 'lost',
    private readonly failure?: Failure,
  ) {
    super(release);
  }

  answered(answer: Answer): void {
    if (answer) this.outcomes.answered(this.held, this.became, this.failure);
    else this.outcomes.answered(this.held, this.otherwise);
  }

  failed(error: Error): void {
    if (isRefusal(error)) this.outcomes.stuck(this.held, error);
    else this.outcomes.broken(this.held, error);
  }

  get isWanted(): boolean {
    return !this.outcomes.isOver;
  }
}

/** A message that goes back as if it had never been delivered; where that fails its lease runs out by itself. */
class GivenBack extends Acknowledgement {
  constructor(
    private readonly outcomes: Outcomes,
    private readonly held: Held,
  ) {
    super(held.message);
  }

  answered(answer: Answer): void {
    this.outcomes.answered(this.held, answer ? 'released' : 'lost');
  }

  failed(): void {
    this.outcomes.answered(this.held, 'released');
  }

  /** Not in doubt: it may be back already, and delivered here once more with the same count. */
  get isWanted(): boolean {
    return !this.doubt && !this.outcomes.isOver;
  }
}
