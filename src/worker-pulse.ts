/** Calls `beat` at intervals, each up to a tenth early or late, and does not keep the process alive. */
export class Pulse {
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly intervalMs: number,
    /** Must not reject. */
    private readonly beat: () => Promise<void>,
  ) {
    this.#arm();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** The next beat is set when the last one is over, so that a slow server never has two of them. */
  #arm(): void {
    const jitter = 0.9 + Math.random() * 0.2;
    const timer = setTimeout(() => {
      void this.beat().then(() => {
        // Unless it was stopped in between.
        if (this.#timer === timer) this.#arm();
      });
    }, this.intervalMs * jitter).unref();
    this.#timer = timer;
  }
}
