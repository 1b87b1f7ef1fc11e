import { once } from 'node:events';
import { Readable } from 'node:stream';
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
 * Messages as a Readable, and so as an async iterable. Claims only what the reader has room for, half of it at a time
 * or more, and waits when there is nothing. On destroy it gives back what was claimed but not read; leaving a
 * `for await` waits until that is done. Ends only when it is destroyed or aborted.
 */
export class MessageStream<M> extends Readable {
  readonly #ending = new AbortController();
  /** Claimed and not yet pushed, from `#next` on. */
  #waiting: M[] = [];
  #next = 0;
  /** Pushed, and perhaps still in the Readable's own buffer: see #unread. */
  #pushed: M[] = [];
  /** The Readable waits for a push. */
  #asked = false;
  #filling: Promise<void> | undefined;

  constructor(
    private readonly source: MessageSource<M>,
    private readonly prefetch: number,
    signal?: AbortSignal,
  ) {
    // Asks for one at a time, and only when a reader does: so what it has in hand is known.
    super({ objectMode: true, highWaterMark: 0 });
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
    if (!this.#filling && this.#wanted() > 0) this.#filling = this.#fill();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#ending.abort(error ?? new Error('the stream was destroyed'));
    void this.#close().then(
      () => callback(error),
      (closing: unknown) => callback(error ?? (closing as Error)),
    );
  }

  /** Goes on until there is no room: at least one claim. Never rejects. */
  async #fill(): Promise<void> {
    const { signal } = this.#ending;
    try {
      for (let empty = 0, limit; (limit = this.#wanted()) > 0;) {
        const messages = await this.source.claim(limit, signal);
        if (signal.aborted) {
          await this.source.giveBack(messages);
          return;
        }
        this.#waiting = [...this.#waiting.slice(this.#next), ...messages];
        this.#next = 0;
        this.#handOut();
        empty = messages.length > 0 ? 0 : empty + 1;
        if (messages.length < limit) await this.source.wait(empty, signal);
      }
    } catch (error) {
      if (!signal.aborted) this.destroy(error as Error);
    } finally {
      this.#filling = undefined; // in the same breath as the last look for room, or an ask in between would be lost
    }
  }

  /** How many messages to claim now: none until half of the room is free, or a slow reader would claim one by one. */
  #wanted(): number {
    if (this.destroyed) return 0;
    const room = this.prefetch - (this.#waiting.length - this.#next) - this.readableLength;
    return room * 2 >= this.prefetch ? room : 0;
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

  async #close(): Promise<void> {
    const unread = [...this.#inReadable(), ...this.#waiting.slice(this.#next)];
    await Promise.all([this.#filling, unread.length > 0 ? this.source.giveBack(unread) : undefined]);
    this.source.close();
  }
}
