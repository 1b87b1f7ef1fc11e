import type { LeaseLostError } from '../errors/index.js';
import type { Message } from '../message.js';
import type { HandlerContext } from './run-options.js';
import type { Lease } from './leases.js';

/** A claimed message and its lease. */
export class Held implements Lease {
  lost: LeaseLostError | undefined;
  /** What is at it. */
  work: Work | undefined;
  /** Called when it is settled, or its lease is lost. */
  onOver: (() => void) | undefined;

  constructor(
    readonly message: Message,
    public endsAtMs: number,
  ) {}

  get delivery(): Message {
    return this.message;
  }

  get bytes(): number {
    return this.message.bytes;
  }

  /** The lease may have ended: nothing should begin on it. */
  get isOver(): boolean {
    return this.lost !== undefined || this.leftMs <= 0;
  }

  /** Of the lease, in ms. */
  get leftMs(): number {
    return this.endsAtMs - performance.now();
  }

  lose(error: LeaseLostError): void {
    this.lost = error;
    this.work?.abort(error);
    this.onOver?.();
  }
}

/** What one call of a handler is about: one message, or a batch of them. */
export class Work implements HandlerContext {
  /** Why it is to stop. */
  reason: Error | undefined;
  /** The run has ended without it: what it still answers is of no account. */
  abandoned = false;
  /** Called when it is abandoned. */
  onAbandon: (() => void) | undefined;
  #controller: AbortController | undefined;

  constructor(
    readonly held: readonly Held[],
    private readonly extendLeases: (held: readonly Held[], seconds: number) => Promise<boolean>,
  ) {
    for (const one of held) one.work = this;
  }

  get messages(): Message[] {
    return this.held.map(({ message }) => message);
  }

  /** Made when somebody asks: most handlers don't. */
  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController();
      if (this.reason) this.#controller.abort(this.reason);
    }
    return this.#controller.signal;
  }

  /** A function of its own, since handlers take their context apart. */
  get extend(): (seconds: number) => Promise<boolean> {
    return (seconds) => this.extendLeases(this.held, seconds);
  }

  abort(reason: Error): void {
    if (this.reason) return;
    this.reason = reason;
    this.#controller?.abort(reason);
  }

  abandon(): void {
    this.abandoned = true;
    this.onAbandon?.();
  }
}
