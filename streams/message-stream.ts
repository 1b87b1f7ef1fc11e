import { Readable } from 'node:stream';

/** Where messages come from. Functions only: the stream knows neither client nor SQL. */
export interface MessageSource<M> {
  /** Claims at most `limit` messages; none is an answer too. */
  claim(limit: number, signal: AbortSignal): Promise<M[]>;
  /** Resolves when it is worth claiming again. @param empty how many claims in a row have come back empty */
  wait(empty: number, signal: AbortSignal): Promise<void>;
  /** Takes back messages that were claimed but never handed out. */
  giveBack(messages: M[]): Promise<void>;
  /** Called once, when the stream is over. */
  close(): void;
}

/**
 * Messages as a Readable, and so as an async iterable. Claims only what the reader has room for, waits when there is
 * nothing, and on destroy gives back what was claimed but not read. Ends only when it is destroyed or aborted.
 */
export class MessageStream<M> extends Readable {
  readonly #ending = new AbortController();
  #claiming: Promise<void> | undefined;
  /** What was pushed lately; its tail is still in the Readable's own buffer. */
  #pushed: M[] = [];

  constructor(
    private readonly source: MessageSource<M>,
    prefetch: number,
    private readonly signal?: AbortSignal,
  ) {
    super({ objectMode: true, highWaterMark: prefetch });
    signal?.addEventListener('abort', this.#onAbort, { once: true });
    if (signal?.aborted) process.nextTick(this.#onAbort);
  }

  override [Symbol.asyncIterator](): NodeJS.AsyncIterator<M> {
    return super[Symbol.asyncIterator]() as NodeJS.AsyncIterator<M>;
  }

  override _read(): void {
    this.#claiming ??= this.#claim().then(
      () => (this.#claiming = undefined),
      (error: unknown) => {
        this.#claiming = undefined;
        if (!this.#ending.signal.aborted) this.destroy(error as Error);
      },
    ) as Promise<void>;
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.signal?.removeEventListener('abort', this.#onAbort);
    this.#ending.abort(error ?? new Error('the stream was destroyed'));
    void this.#close().then(
      () => callback(error),
      (closing: unknown) => callback(error ?? (closing as Error)),
    );
  }

  async #claim(): Promise<void> {
    const { signal } = this.#ending;
    for (let empty = 0; ;) {
      const messages = await this.source.claim(this.readableHighWaterMark - this.readableLength, signal);
      if (signal.aborted) return this.source.giveBack(messages);
      if (messages.length > 0) {
        this.#remember(messages);
        // `push` may call `_read` again: not before this claim is over.
        for (const message of messages) this.push(message);
        return;
      }
      await this.source.wait(++empty, signal);
    }
  }

  #remember(messages: M[]): void {
    this.#pushed = [...this.#unread(), ...messages];
  }

  #unread(): M[] {
    return this.readableLength === 0 ? [] : this.#pushed.slice(-this.readableLength);
  }

  async #close(): Promise<void> {
    const unread = this.#unread();
    await this.#claiming?.catch(() => undefined);
    this.source.close();
    if (unread.length > 0) await this.source.giveBack(unread);
  }

  readonly #onAbort = () => {
    this.destroy(this.signal?.reason as Error);
  };
}
