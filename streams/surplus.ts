import type { Waiting } from './waiting.js';

export interface SurplusOptions<M> {
  waiting: Waiting<M>;
  /** Messages to hold ahead of those that are being handled. */
  ahead: () => number;
  giveBack: (messages: M[]) => void;
}

/** Between two looks, and for so long the first one waits before any others go back. */
const PATIENCE_MS = 500;
/** Times of what should be ahead: less than that is no reason to give back. */
const TOLERANCE = 2;

/**
 * Gives back what was claimed for handlers that have since become slow: others may be idle. Looks only at whether the
 * first one waits: as long as messages move there are not too many of them.
 */
export class Surplus<M> {
  readonly #timer: NodeJS.Timeout;

  constructor(private readonly options: SurplusOptions<M>) {
    this.#timer = setInterval(() => this.#look(), PATIENCE_MS).unref();
  }

  end(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const { waiting, ahead, giveBack } = this.options;
    if (waiting.waitedMs < PATIENCE_MS) return;
    const surplus = waiting.takeBeyond(TOLERANCE * ahead());
    if (surplus.length > 0) giveBack(surplus);
  }
}
