import { once } from 'node:events';
import { Readable } from 'node:stream';
import { ClaimLoop, type Memory, type Room } from './claim-loop.js';
import { endOnAbort } from './end-on-abort.js';
import { Surplus } from './surplus.js';
import { Waiting } from './waiting.js';

/** Where messages come from. Functions only: the stream knows neither client nor SQL. */
export interface MessageSource<M> {
  /** Claims what there is room for; none is an answer too. */
  claim(room: Room, signal: AbortSignal): Promise<M[]>;
  /**
   * Called when a claim brought less than it asked for; resolves when it is worth claiming again.
   * @param empty how many claims in a row have brought nothing
   */
  wait(empty: number, signal: AbortSignal): Promise<void>;
  /** Takes back messages that were claimed but never handed out. */
  giveBack(messages: M[]): Promise<void>;
  /** Called once, when nothing is claimed any more. */
  close(): Promise<void> | void;
}

export interface MessageStreamOptions<M, Out> {
  /** Messages to claim ahead of the reader. */
  prefetch: () => number;
  memory?: Memory;
  /** Asked right before a message is handed out: one that has waited for too long goes back instead. @default never */
  isOver?: (message: M) => boolean;
  /** Makes that a message is not over soon; called before it is handed out. @default nothing to do */
  refresh?: (message: M) => Promise<void> | undefined;
  /** What the reader gets of it. @default itself */
  unwrap?: (message: M) => Out;
  /** Called when the reader has it: it is the reader's from then on. */
  onHandedOut?: (message: M) => void;
  /** Called when the reader asks for one. */
  onAsked?: () => void;
  /** What was claimed for a reader that has since become slow goes there. @default it stays */
  giveBackSurplus?: (messages: M[]) => void;
  signal?: AbortSignal | undefined;
}

/**
 * Messages as a Readable, and so as an async iterable. Claims only what the reader has room for. On destroy it gives
 * back what was claimed but not read; leaving a `for await` waits until that is done. Ends only when it is destroyed or
 * aborted.
 */
export class MessageStream<Out, M = Out> extends Readable {
  readonly #claims: ClaimLoop<M>;
  readonly #waiting = new Waiting<M>();
  readonly #surplus: Surplus<M> | undefined;
  /** Pushed, and perhaps still in the Readable's own buffer: see #inReadable. */
  #pushed: M[] = [];
  /** The Readable waits for a push. */
  #asked = false;
  /** Taken, and about to be pushed. */
  #refreshing: { message: M; done: Promise<void> } | undefined;

  constructor(
    private readonly source: MessageSource<M>,
    private readonly options: MessageStreamOptions<M, Out>,
  ) {
    // Asks for one at a time, and only when a reader does: so what it has in hand is known.
    super({ objectMode: true, highWaterMark: 0 });
    const { prefetch, memory, giveBackSurplus, signal } = options;
    this.#claims = new ClaimLoop(source, {
      prefetch,
      waiting: () => this.#waiting.count + this.readableLength + (this.#refreshing ? 1 : 0),
      ...(memory && { memory }),
      onMessages: (messages) => {
        this.#waiting.add(messages);
        this.#handOut();
      },
      onError: (error) => this.destroy(error),
    });
    if (giveBackSurplus) {
      this.#surplus = new Surplus({ waiting: this.#waiting, ahead: prefetch, giveBack: giveBackSurplus });
    }
    endOnAbort(signal, this);
  }

  override async *[Symbol.asyncIterator](): NodeJS.AsyncIterator<Out> {
    try {
      yield* super.iterator({ destroyOnReturn: false }) as NodeJS.AsyncIterator<Out>;
    } catch (error) {
      // Node calls every destroy premature; one without an error just ends the loop, so that a shutdown is no failure.
      if (this.errored) throw error;
    } finally {
      if (!this.destroy().closed) await once(this, 'close').catch(() => undefined);
    }
  }

  /** After destroy there is nothing to read, not even in a `data` loop that goes on: what is still here goes back. */
  override read(size?: number): Out | null {
    for (let read; !this.destroyed && (read = super.read(size) as Out | null) !== null;) {
      // The buffer is in order: before what is in it comes what has just left it.
      const message = this.#pushed.at(-1 - this.readableLength) as M;
      if (this.#isOver(message)) continue;
      this.options.onHandedOut?.(message);
      return read;
    }
    return null;
  }

  override _read(): void {
    this.options.onAsked?.();
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

  /** To be called whenever there may be more room. */
  poke(): void {
    this.#claims.poke();
  }

  #handOut(): void {
    while (this.#asked && !this.#refreshing && !this.destroyed && this.#waiting.count > 0) {
      const message = this.#waiting.take() as M;
      if (this.#isOver(message)) continue;
      const refreshing = this.options.refresh?.(message);
      if (refreshing) this.#refreshing = { message, done: refreshing.then(() => this.#refreshed(message)) };
      else this.#push(message);
    }
  }

  #refreshed(message: M): void {
    if (this.destroyed) return;
    this.#refreshing = undefined;
    if (!this.#isOver(message)) this.#push(message);
    this.#handOut();
    this.#claims.poke();
  }

  #isOver(message: M): boolean {
    const isOver = this.options.isOver?.(message) ?? false;
    if (isOver) void this.source.giveBack([message]);
    return isOver;
  }

  #push(message: M): void {
    this.#asked = false;
    this.#pushed = [...this.#inReadable(), message];
    this.push(this.options.unwrap ? this.options.unwrap(message) : message);
    // Where there is a `data` listener it has not been in the buffer.
    if (this.readableLength === 0) this.options.onHandedOut?.(message);
  }

  #inReadable(): M[] {
    return this.readableLength === 0 ? [] : this.#pushed.slice(-this.readableLength);
  }

  async #close(reason: Error): Promise<void> {
    this.#surplus?.end();
    const ended = this.#claims.end(reason);
    const refreshing = this.#refreshing ? [this.#refreshing.message] : [];
    const unread = [...this.#inReadable(), ...refreshing, ...this.#waiting.takeBeyond(0)];
    await this.#refreshing?.done;
    await Promise.all([ended, unread.length > 0 ? this.source.giveBack(unread) : undefined]);
    await this.source.close();
  }
}
