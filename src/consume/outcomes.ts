import { type Deferred, deferred, settledWithin } from '../deferred.js';
import { isAnswer } from '../errors/answer.js';
import { type LeaseLostError, RetryAfter, SluiceError } from '../errors/index.js';
import type { Message } from '../message.js';
import type { Release, SettledBy } from '../sql/settle.js';
import type { Asker } from './acknowledgements.js';
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
  /** The server refuses what it is told, or nobody can be told any more. */
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
  }

  done(held: Held): void {
    const { deliveries, onSuccess } = this.options;
    this.#tell(new Telling(this, held, 'done', (asker) => deliveries.settle(onSuccess, held.message, asker)));
  }

  released(held: Held): void {
    const { id, readCount } = held.message;
    this.#tell(new Telling(this, held, 'released', this.#lettingGo({ id, readCount, delaySeconds: 0 })));
  }

  /** @param otherwise what has become of it where it is not held any more */
  failed(held: Held, error: unknown, otherwise?: Became): void {
    const { message } = held;
    const release = this.#afterFailure(message, error);
    const retrySeconds = release.dead ? undefined : release.delaySeconds;
    const became = release.dead ? 'dead' : 'retried';
    const failure = { message, error, retrySeconds, deadReason: release.dead?.reason };
    this.#tell(new Telling(this, held, became, this.#lettingGo(release), otherwise, failure));
  }

  /** @internal the server has answered @param failure what it is about, where it is so */
  answered(held: Held, became: Became, failure: Failure | undefined): void {
    this.are(held, became);
    if (failure) this.options.onFailed(failure);
    this.#close();
  }

  /** @internal @returns whether it is to be told again */
  isToBeToldAgain(held: Held, error: Error): boolean {
    if (error instanceof SluiceError && error.transient && !this.#over) return true;
    this.options.leases.remove(held);
    this.options.onRefused(error);
    this.#close();
    return false;
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

  #tell(telling: Telling): void {
    this.#open++;
    telling.tell(telling);
  }

  #lettingGo(release: Release): (asker: Asker) => void {
    return (asker) => this.options.deliveries.letGo(release, asker);
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

/** One message and what the server is told of it: until it answers, or the run is over and the lease ends by itself. */
class Telling implements Asker {
  /** Not held, after an answer that did not come: that one carried it out. */
  #doubted = false;

  constructor(
    private readonly outcomes: Outcomes,
    private readonly held: Held,
    private readonly became: Became,
    readonly tell: (asker: Asker) => void,
    private readonly otherwise: Became = 'lost',
    private readonly failure?: Failure,
  ) {}

  answered(still: boolean): void {
    if (still || this.#doubted) this.outcomes.answered(this.held, this.became, this.failure);
    else this.outcomes.answered(this.held, this.otherwise, undefined);
  }

  failed(error: Error): void {
    this.#doubted ||= !isAnswer(error);
    if (this.outcomes.isToBeToldAgain(this.held, error)) this.tell(this);
  }
}
