import { once } from 'node:events';
import { Readable } from 'node:stream';
import { ClaimLoop } from './claim-loop.js';
import { endOnAbort } from './end-on-abort.js';

/** Where messages come from. Functions only: the stream knows neither client nor SQL. */
export interface MessageSource<M> {
  /** Claims at most `limit` messages; none is an answer too. */
  claim(limit: number, signal: AbortSignal): Promise<M[]>;
  /**
   * Called when a claim brought less than it asked for; resolves when it is worth claiming again.
   * @param empty how many claims in a row have brought nothing
   */
  wait(empty: number, signal: AbortSignal): Promise<void>;
  /** Takes back messages that were claimed but never handed out. */
  giveBack(messages: M[]): Promise<void>;
  /** Called once, when nothing is claimed any more. */
  close(): void;
}

/**
 * Messages as a Readable, and so as an async iterable. Claims only what the reader has room for. On destroy it gives back what was claimed but not read; leaving a
 * `for await` waits until that is done. Ends only when it is destroyed or aborted.
 */
export class MessageStream<M> extends Readable {
  readonly #claims: ClaimLoop<M>;
  /** Claimed and not yet pushed, from `#next` on. */
  #waiting: M[] = [];
  #next = 0;
  /** Pushed, and perhaps still in the Readable's own buffer: see #unread. */
  #pushed: M[] = [];
  /** The Readable waits for a push. */
  #asked = false;

  constructor(
    private readonly source: MessageSource<M>,
    prefetch: number,
    signal?: AbortSignal,
  ) {
    // Asks for one at a time, and only when a reader does: so what it has in hand is known.
    super({ objectMode: true, highWaterMark: 0 });
    this.#claims = new ClaimLoop(source, {
      prefetch: () => prefetch,
      waiting: () => this.#waiting.length - this.#next + this.readableLength,
      onMessages: (messages) => {
        this.#waiting = [...this.#waiting.slice(this.#next), ...messages];
        this.#next = 0;
        this.#handOut();
      },
      onError: (error) => this.destroy(error),
    });
    endOnAbort(signal, this);
  }

  override async *[Symbol.asyncIterator](): NodeJS.AsyncIterator<M> {
    try {
      yield* super.iterator({ destroyOnReturn: false }) as NodeJS.AsyncIterator<M>;
    } catch (error) {
      // Node calls every destroy premature; one without an error just ends the loop, so that a shutdown is no failure.
      if (this.errored) throw error;
    } finally {
      if (!this.destroy().closed) await once(this, 'close').catch(() => undefined);
    }
  }

  /** After destroy there is nothing to read, not even in a `data` loop that goes on: what is still here goes back. */
  override read(size?: number): ReturnType<Readable['read']> {
    return this.destroyed ? null : super.read(size);
  }

  override _read(): void {
    this.#asked = true;
    this.#handOut();
    this.#claims.poke();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    void this.#close(error ?? new Error('the stream was destroyed')).then(
      () => callback(error),
      (closing: unknown) => callback(error ?? (closing as Error)),
    );
  }

  #handOut(): void {
    if (!this.#asked || this.#next === this.#waiting.length) return;
    this.#asked = false;
    const message = this.#waiting[this.#next++] as M;
    this.#pushed = [...this.#inReadable(), message];
    this.push(message);
  }

  #inReadable(): M[] {
    return this.readableLength === 0 ? [] : this.#pushed.slice(-this.readableLength);
  }

  async #close(reason: Error): Promise<void> {
    const ended = this.#claims.end(reason);
    const unread = [...this.#inReadable(), ...this.#waiting.slice(this.#next)];
    await Promise.all([ended, unread.length > 0 ? this.source.giveBack(unread) : undefined]);
    this.source.close();
  }
}
