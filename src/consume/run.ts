import pLimit from 'p-limit';
import { ClaimLoop } from '../../streams/claim-loop.js';
import { Surplus } from '../../streams/surplus.js';
import { Waiting } from '../../streams/waiting.js';
import * as check from '../check.js';
import { type Deferred, deferred, settledWithin } from '../deferred.js';
import { ShutdownError, TimeoutError, WorkerFencedError } from '../errors/index.js';
import { recognisable } from '../errors/thrown.js';
import { onAbort } from '../on-abort.js';
import { handlersAtWork } from './at-work.js';
import { Holding } from './holding.js';
import { Outcomes } from './outcomes.js';
import { Pace } from './pace.js';
import { CommitInDoubt, type Errors, type Perform, RolledBack, SettlementRefused } from './perform.js';
import type { CheckedRunOptions, RunSummary } from './run-options.js';
import type { RunsOptions } from './runs.js';
import { type Held, Work } from './work.js';

export interface RunParts extends RunsOptions {
  perform: Perform;
}

/** For handlers that wait for nothing. */
const LONGEST_TURN_MS = 10;
/** For handlers whose signal has aborted at the end of a shutdown's time, to notice. */
const GRACE_MS = 1_000;
/** For the last acknowledgements, at least. */
const LAST_WORDS_MS = 5_000;

/**
 * Handlers at work on one queue. Messages are claimed ahead of them; each message is settled when its handler is over,
 * and its slot is free at once for the next one.
 *
 * At the end nothing more is claimed, what waits goes back, and handlers at work have their time to end. Then their
 * signals abort, and the messages of those that still do not end go back too: what these do later counts for nothing.
 */
export class Run {
  readonly #outcomes: Outcomes;
  readonly #holding: Holding;
  readonly #claims: ClaimLoop<Held>;
  readonly #limit: ReturnType<typeof pLimit>;
  /** Claimed, for the next handlers. */
  readonly #waiting = new Waiting<Held>();
  readonly #pace: Pace;
  /** Where the caller says how many messages to hold, these are held. */
  readonly #surplus: Surplus<Held> | undefined;
  /** Taken by handlers that go on as long as there are messages. */
  #slots = 0;
  readonly #works = new Set<Work>();
  /** Messages that are being handled. */
  #running = 0;
  /** When handlers last let others have their turn. */
  #turnAtMs = 0;
  /** Settled when no handler is at work. */
  #quiet: Deferred<void> | undefined;
  #error: Error | undefined;
  #ending: Promise<void> | undefined;
  readonly #ended = deferred<RunSummary>();
  #stopListening: () => void = () => undefined;

  constructor(
    private readonly parts: RunParts,
    private readonly options: CheckedRunOptions,
  ) {
    const { concurrency, atOnce, batchSize, prefetch, lockSeconds, signal } = options;
    this.#limit = pLimit(concurrency);
    this.#pace = new Pace(atOnce, batchSize);
    if (prefetch === undefined) {
      this.#surplus = new Surplus({
        waiting: this.#waiting,
        ahead: () => this.#prefetch,
        giveBack: (held) => this.#holding.giveBackSurplus(held),
      });
    }
    this.#holding = new Holding({
      ...parts,
      lockSeconds,
      freeSlots: () => atOnce - this.#running - this.#waiting.count,
      onRoom: () => this.#claims.poke(),
    });
    this.#outcomes = new Outcomes({
      ...parts,
      onSuccess: options.onSuccess,
      leases: this.#holding.leases,
      onSettled: () => this.#claims.poke(),
      onRefused: (error) => void this.#end(error),
    });
    this.#claims = new ClaimLoop(this.#holding, {
      prefetch: () => this.#prefetch,
      slots: atOnce,
      // In the order of their being due where that can be kept at all.
      claims: concurrency === 1 ? 1 : 2,
      waiting: () => this.#waiting.count,
      running: () => this.#running + this.#backlog,
      memory: this.#holding.memory,
      onMessages: (held) => this.#arrived(held),
      onError: (error) => void this.#end(error),
    });
    if (signal?.aborted) void this.stop();
    else if (signal) this.#stopListening = onAbort(signal, () => void this.stop());
    this.#claims.poke();
  }

  /** Resolves when all is settled after the end; rejects with what ended it otherwise. */
  get ended(): Promise<RunSummary> {
    return this.#ended.promise;
  }

  /** Ends it in order; resolves when it has ended, whatever ended it. */
  stop(): Promise<void> {
    return this.#end();
  }

  /** Messages to claim ahead: what the caller wants, or what the handlers will soon be done with. */
  get #prefetch(): number {
    return this.options.prefetch ?? this.#pace.ahead();
  }

  /** Settlements that the server keeps waiting: beyond a measure they take up room. */
  get #backlog(): number {
    return Math.max(0, this.#outcomes.open - 4 * (this.options.atOnce + this.#prefetch));
  }

  #arrived(held: readonly Held[]): void {
    this.#waiting.add(held);
    const idle = Math.min(this.options.concurrency - this.#slots, held.length);
    this.#slots += idle;
    for (let n = 0; n < idle; n++) void this.#limit(() => this.#workOn());
  }

  /** One message, or batch, after the other, for as long as there are some. Never rejects. */
  async #workOn(): Promise<void> {
    for (;;) {
      while (handlersAtWork.closed) await handlersAtWork.closed;
      const held = this.#take();
      const [first] = held;
      if (!first) break;
      const handling = this.#isLastChance(first) ? this.#handleAlone(first) : this.#handle(held);
      if (handling) await handling;
      // Handlers that wait for nothing would starve heartbeats and renewals.
      if (performance.now() - this.#turnAtMs > LONGEST_TURN_MS) {
        await new Promise((resolve) => setImmediate(resolve));
        this.#turnAtMs = performance.now();
      }
    }
    this.#slots--; // in the same breath as the last look, or what arrives in between would find no slot
    this.#claims.poke();
  }

  /** A handler that is done at once is not waited for. */
  #handle(held: readonly Held[]): Promise<void> | undefined {
    const work = new Work(held, this.#extend);
    this.#begin(work);
    try {
      const errors = this.parts.perform(work);
      if (!Array.isArray(errors)) {
        return (errors as Promise<Errors>)
          .then((later) => this.#settle(work, later))
          .catch((error: unknown) => this.#failed(work, error))
          .finally(() => this.#finish(work));
      }
      this.#settle(work, errors as Errors);
    } catch (error) {
      this.#failed(work, error);
    }
    this.#finish(work);
    return undefined;
  }

  /**
   * With no other handler at work, so that no other can end this process. Until the server has answered what became of
   * it, no other begins: the next one may end the process before.
   */
  #handleAlone(held: Held): Promise<void> {
    return handlersAtWork.alone(async (isAlone) => {
      if (this.#ending || held.isOver) return this.#holding.giveBack([held]);
      const over = deferred();
      held.onOver = () => over.resolve();
      // Beside others it is not marked: if the process ends, it is not known whose fault that was.
      const { deliveries } = this.parts;
      const lost = isAlone && !(await deliveries.markBegun(held.message).catch(() => true));
      if (lost) {
        this.#outcomes.are(held, 'lost');
        return;
      }
      await this.#handle([held]);
      await over.promise;
    });
  }

  #isLastChance({ message }: Held): boolean {
    return this.parts.deliveries.isLastChance(message);
  }

  #begin(work: Work): void {
    handlersAtWork.begin();
    this.#works.add(work);
    this.#running += work.held.length;
    this.#pace.began();
    this.#claims.poke();
  }

  #finish(work: Work): void {
    if (!work.abandoned) handlersAtWork.end();
    this.#pace.ended(performance.now());
    this.#works.delete(work);
    this.#running -= work.held.length;
    if (this.#works.size === 0) this.#quiet?.resolve();
  }

  /**
   * The next messages for a handler; what has waited until its lease may have ended is not handled on it. A last chance
   * comes alone.
   */
  #take(): Held[] {
    const { batchSize } = this.options;
    const taken: Held[] = [];
    for (let held; taken.length < batchSize && (held = this.#waiting.first);) {
      const isLast = this.#isLastChance(held);
      if (isLast && taken.length > 0) break;
      this.#waiting.take();
      if (held.isOver) void this.#holding.giveBack([held]);
      else taken.push(held);
      if (isLast && taken.length > 0) break;
    }
    return taken;
  }

  readonly #extend = async (held: readonly Held[], seconds: number): Promise<boolean> => {
    return this.#holding.leases.extend(held, check.leaseSeconds('seconds', seconds));
  };

  #settle(work: Work, errors: Errors): void {
    if (work.abandoned) return;
    work.held.forEach((held, at) => {
      const error = errors[at];
      const { settledAs } = held.message;
      held.work = undefined;
      // By the handler itself; in a transaction that failed it was not.
      if (settledAs && !(this.options.transactional && error)) this.#outcomes.are(held, settledAs);
      // A transaction has settled it already.
      else if (error === undefined && this.options.transactional) this.#outcomes.are(held, 'done');
      else if (error === undefined) this.#outcomes.done(held);
      else if (error instanceof CommitInDoubt) this.#outcomes.failed(held, error.cause, 'done');
      // It was made to stop, or its transaction could not commit for another's sake: no failure of this message.
      else if (work.reason || isNoFailure(error)) this.#outcomes.released(held);
      else this.#outcomes.failed(held, error);
    });
  }

  #failed(work: Work, thrown: unknown): void {
    const error = recognisable(thrown);
    // No handler's fault: it would be the same with every message.
    if (error instanceof SettlementRefused) void this.#end(error.cause);
    const reason = error ?? new Error('the handler threw nothing');
    this.#settle(work, Array<unknown>(work.held.length).fill(reason));
  }

  #end(error?: Error): Promise<void> {
    this.#error ??= error;
    this.#ending ??= this.#windUp();
    return this.#ending;
  }

  /** Never rejects. */
  async #windUp(): Promise<void> {
    const { shutdownSeconds } = this.options;
    const deadline = performance.now() + shutdownSeconds * 1_000;
    this.#stopListening();
    const ended = this.#claims.end(this.#error ?? new Error('the run is over'));
    this.#surplus?.end();
    const waiting = this.#holding.giveBack(this.#waiting.takeBeyond(0));
    const back = Promise.all([ended, waiting, this.#holding.stop()]);

    // Who is not registered any more has nothing to wait for: its messages are, or will be, somebody else's.
    if (!(this.#error instanceof WorkerFencedError)) await this.#quietWithin(shutdownSeconds * 1_000);
    for (const work of this.#works) work.abort(this.#error ?? new ShutdownError(shutdownSeconds));
    await this.#quietWithin(GRACE_MS);
    this.#abandon();

    await back;
    const left = Math.max(LAST_WORDS_MS, deadline - performance.now());
    if (!(await this.#outcomes.end(left)))
      this.#error ??= new TimeoutError('settling the last messages', left);
    await this.#holding.close();
    if (this.#error) this.#ended.reject(this.#error);
    else this.#ended.resolve(this.#outcomes.summary);
  }

  /** Resolves when no handler is at work, or after that time. */
  async #quietWithin(ms: number): Promise<void> {
    if (this.#works.size === 0) return;
    this.#quiet = deferred();
    await settledWithin(ms, this.#quiet.promise);
  }

  #abandon(): void {
    for (const work of this.#works) {
      work.abandon();
      handlersAtWork.end();
      for (const held of work.held) this.#outcomes.released(held);
    }
  }
}

/** What is wrong with other messages, or with all of them, is no failure of this one. */
function isNoFailure(error: unknown): boolean {
  return error instanceof RolledBack || error instanceof SettlementRefused;
}
