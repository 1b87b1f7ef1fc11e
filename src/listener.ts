import { EventEmitter } from 'node:events';
import { backoffMs, sleep } from './backoff.js';
import type { Db } from './db.js';
import { orAbort } from './deferred.js';
import { TimeoutError } from './errors.js';
import { ListenLink } from './listen-link.js';
import { notify } from './sql/notify.js';

export interface ListenerOptions {
  /** Time between two checks that notifications still arrive, in ms. @default 30000 */
  probeIntervalMs?: number;
  /** Time in which a check must succeed, in ms. @default 5000 */
  probeTimeoutMs?: number;
}

export interface ListenerEvents {
  /** Notifications arrive (again). */
  listening: [];
  /** Notifications do not arrive: consumers poll until they do. Once per outage. */
  deaf: [reason: Error];
}

const RECONNECT = { baseMs: 100, maxMs: 10_000 };

/**
 * Hears NOTIFY on one connection of its own and wakes whoever subscribed to the channel. A wake is only a hint:
 * notifications in an outage are lost, so everybody is woken after each reconnect, and consumers poll besides.
 *
 * It trusts nothing: at the start and then regularly a NOTIFY is sent over another connection and must be heard here.
 * Behind a transaction pooler or on a replica it never will; on a half-open socket it no longer will, and a new
 * connection is opened. It never gives up, and `close()` ends it in whatever it is doing.
 */
export class Listener extends EventEmitter<ListenerEvents> {
  readonly #wakes = new Map<string, Set<() => void>>();
  readonly #closing = new AbortController();
  readonly #probeIntervalMs: number;
  readonly #probeTimeoutMs: number;
  #link: ListenLink | undefined;
  #running: Promise<void> | undefined;
  #deaf = false;

  constructor(
    private readonly db: Db,
    { probeIntervalMs = 30_000, probeTimeoutMs = 5_000 }: ListenerOptions = {},
  ) {
    super();
    this.#probeIntervalMs = probeIntervalMs;
    this.#probeTimeoutMs = probeTimeoutMs;
  }

  /** Calls `wake` for every notification on `channel`, and once whenever some may have been missed. */
  subscribe(channel: string, wake: () => void): () => void {
    const wakes = this.#wakes.get(channel) ?? new Set();
    wakes.add(wake);
    if (wakes.size === 1) {
      this.#wakes.set(channel, wakes);
      this.#link?.listen(channel).then(wake, () => undefined); // a failure loses the link, and the next one listens
    }
    this.#running ??= this.#run();
    return () => {
      wakes.delete(wake);
      if (wakes.size > 0 || this.#wakes.get(channel) !== wakes) return;
      this.#wakes.delete(channel);
      this.#link?.unlisten(channel).catch(() => undefined);
    };
  }

  /** Resolves when the connection is closed and no reconnect is under way. Twice is fine. */
  async close(): Promise<void> {
    this.#closing.abort(new Error('the listener was closed'));
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    for (let failures = 0; !signal.aborted;) {
      const link = new ListenLink(
        this.db.connection,
        (channel) => this.#wake(channel),
        (channel) => notify(this.db.urgent, channel),
      );
      try {
        await link.open(this.#wakes.keys(), signal);
        await orAbort(link.probe(this.#probeTimeoutMs), signal);
        this.#link = link;
        // Those that came while it opened; the others are known to it already.
        for (const channel of this.#wakes.keys()) await link.listen(channel);
        failures = 0;
        this.#hearing();
        await this.#watch(link, signal);
      } catch (error) {
        if (!this.#closing.signal.aborted) this.#deafened(error as Error);
      } finally {
        this.#link = undefined;
        await link.close();
      }
      await sleep(backoffMs(++failures, RECONNECT), signal).catch(() => undefined);
    }
  }

  /** Rejects when the link is lost or no longer hears. */
  async #watch(link: ListenLink, signal: AbortSignal): Promise<never> {
    for (;;) {
      const interval = new AbortController();
      try {
        const pause = sleep(this.#probeIntervalMs, interval.signal);
        await orAbort(Promise.race([link.lost, pause]), signal);
        await orAbort(Promise.race([link.lost, link.probe(this.#probeTimeoutMs)]), signal);
      } catch (error) {
        // A NOTIFY that could not be sent says nothing about what can be heard.
        const sendFailed = !(error instanceof TimeoutError) && !signal.aborted && !link.isLost;
        if (!sendFailed) throw error;
      } finally {
        interval.abort();
      }
    }
  }

  #hearing(): void {
    this.#deaf = false;
    this.emit('listening');
    for (const channel of this.#wakes.keys()) this.#wake(channel);
  }

  #deafened(reason: Error): void {
    if (this.#deaf) return;
    this.#deaf = true;
    this.emit('deaf', reason);
  }

  #wake(channel: string): void {
    this.#wakes.get(channel)?.forEach((wake) => wake());
  }
}
