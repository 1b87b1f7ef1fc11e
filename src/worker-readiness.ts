import { type Deferred, deferred } from './deferred.js';
import { WorkerSuspendedError } from './errors/index.js';
import { onAbort } from './on-abort.js';

/**
 * Whether a worker may begin something new, and who waits until it may. What is in the way passes (the worker is
 * suspended) or is final (it is fenced or stopped).
 */
export class Readiness {
  readonly #waiting = new Set<Deferred<void>>();
  readonly #watchers = new Set<() => void>();

  constructor(
    /** What is in the way now. */
    private readonly obstacle: () => Error | undefined,
  ) {}

  assert(): void {
    const obstacle = this.obstacle();
    if (obstacle) throw obstacle;
  }

  /** Resolves when nothing is in the way; rejects with what is final, or with the signal's reason. */
  async when(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    if (!this.#mustWait()) {
      this.assert();
      return;
    }
    const waiting = deferred();
    const stopWaiting = signal && onAbort(signal, () => waiting.reject(signal.reason as Error));
    this.#waiting.add(waiting);
    try {
      await waiting.promise;
    } finally {
      this.#waiting.delete(waiting);
      stopWaiting?.();
    }
  }

  /** Has `watcher` called after each change. @returns what ends that */
  watch(watcher: () => void): () => void {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }

  /** To be called whenever the obstacle may be another. */
  changed(): void {
    if (!this.#mustWait()) {
      const obstacle = this.obstacle();
      for (const waiting of this.#waiting) {
        if (obstacle) waiting.reject(obstacle);
        else waiting.resolve();
      }
    }
    for (const watcher of this.#watchers) watcher();
  }

  #mustWait(): boolean {
    return this.obstacle() instanceof WorkerSuspendedError;
  }
}
