import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { backoffMs, sleep } from './backoff.js';
import type { Db } from './db.js';
import { deferred, type Deferred, orAbort, withDeadline } from './deferred.js';
import { TimeoutError } from './errors/index.js';
import type { HostsConfig } from './hosts-client.js';
import { ListenLink } from './listen-link.js';
import { notify } from './sql/notify.js';

export interface ListenerOptions {
  /** Where to listen. @default where the database is */
  connection?: HostsConfig;
  /** Time between two checks that notifications still arrive, in ms. @default 30000 */
  probeIntervalMs?: number;
  /** Time in which a check must succeed, a connection be open, a LISTEN be answered, in ms. @default 5000 */
  probeTimeoutMs?: number;
}

export interface ListenerEvents {
  /** Notifications arrive (again). */
  listening: [];
  /** Notifications do not arrive: consumers poll until they do. Once per outage. */
  deaf: [reason: Error];
}

const RECONNECT = { baseMs: 100, maxMs: 5_000 };
/** Where a connection can be had but hears nothing: a pooler or a replica, which seldom becomes something else. */
const RECONNECT_DEAF = { baseMs: 1_000, maxMs: 300_000 };

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
  /** The same for every connection: a pooler's backends may go on listening to it. */
  readonly #probeChannel = `sluice_probe_${randomUUID().replaceAll('-', '')}`;
  #probed: Deferred<void> | undefined;
  #link: ListenLink | undefined;
  #running: Promise<void> | undefined;
  #deaf = false;
  readonly #connection: HostsConfig;
  readonly #probeIntervalMs: number;
  readonly #probeTimeoutMs: number;

  constructor(
    private readonly db: Db,
    { connection = db.connection, probeIntervalMs = 30_000, probeTimeoutMs = 5_000 }: ListenerOptions = {},
  ) {
    super();
    this.setMaxListeners(0); // every consumer listens for the two events
    this.#connection = connection;
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
    if (!this.#closing.signal.aborted) this.#running ??= this.#run();
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
      const link = new ListenLink(this.#connection, this.#probeTimeoutMs, (channel) => this.#heard(channel));
      let backoff = RECONNECT;
      try {
        await this.#unlessClosed((over) => link.open(over));
        await this.#unlessClosed((over) => link.listen(this.#probeChannel, over));
        backoff = RECONNECT_DEAF;
        await this.#probe(link);
        backoff = RECONNECT;
        this.#link = link; // from here on subscribe() makes it listen to what comes
        await this.#unlessClosed(async (over) => {
          for (const channel of this.#wakes.keys()) await link.listen(channel, over);
        });
        failures = 0;
        this.#hearing();
        await this.#watch(link);
      } catch (error) {
        if (!this.#closing.signal.aborted) this.#deafened(error as Error);
      } finally {
        this.#link = undefined;
        await link.close();
      }
      await sleep(backoffMs(++failures, backoff), signal).catch(() => undefined);
    }
  }

  /** Rejects when the link is lost or no longer hears. */
  async #watch(link: ListenLink): Promise<never> {
    for (;;) {
      await this.#unlessClosed((over) => sleep(this.#probeIntervalMs, over), link.lost);
      try {
        await this.#probe(link);
      } catch (error) {
        // A NOTIFY that could not be sent says nothing about what can be heard.
        if (error instanceof TimeoutError || link.isLost || this.#closing.signal.aborted) throw error;
      }
    }
  }

  /** Resolves when a NOTIFY sent over another connection, as a producer would, is heard on this one. */
  async #probe(link: ListenLink): Promise<void> {
    const heard = (this.#probed = deferred());
    await this.#unlessClosed(async (over) => {
      await orAbort(notify(this.db.urgent, this.#probeChannel), over);
      await withDeadline('hearing a NOTIFY of our own', this.#probeTimeoutMs, orAbort(heard.promise, over));
    }, link.lost);
  }

  /** Does `work` unless the listener is closed, or something else fails, before; leaves no timer of it behind. */
  async #unlessClosed(
    work: (over: AbortSignal) => Promise<void>,
    ...others: readonly Promise<never>[]
  ): Promise<void> {
    const over = new AbortController();
    try {
      await orAbort(Promise.race([work(over.signal), ...others]), this.#closing.signal);
    } finally {
      over.abort();
    }
  }

  #heard(channel: string): void {
    if (channel === this.#probeChannel) this.#probed?.resolve();
    else this.#wake(channel);
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
