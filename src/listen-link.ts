import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import pgListen, { type Subscriber } from 'pg-listen';
import { type Deferred, deferred, orAbort, withDeadline } from './deferred.js';
import { driverError } from './driver-error.js';
import { ConnectionError } from './errors/index.js';
import type { Place } from './hosts.js';
import type { HostsConfig } from './hosts-client.js';

const CLOSE_TIMEOUT_MS = 1_000;

/**
 * One LISTEN connection, from its opening to its loss. It never reconnects: pg-listen's own reconnecting can't be
 * stopped and can't see a half-open socket, so the listener opens a new link instead.
 */
export class ListenLink {
  /** Rejects when the connection is lost. */
  readonly lost: Promise<never>;
  isLost = false;
  readonly #lost: Deferred<never> = deferred();
  #subscriber: Subscriber | undefined;
  #socket: Duplex | undefined;
  #place: Place | undefined;
  readonly #leave = () => void this.#socket?.destroy();
  /** The driver no longer lets statements queue up, so they wait here. */
  #last: Promise<unknown> = Promise.resolve();

  /** @param timeoutMs longest wait for a host, for the connection, and for the answer to a statement */
  constructor(
    private readonly connection: HostsConfig,
    private readonly timeoutMs: number,
    private readonly onNotification: (channel: string) => void,
  ) {
    this.lost = this.#lost.promise;
  }

  async open(signal: AbortSignal): Promise<void> {
    const { hosts, stream, ...connection } = this.connection;
    this.#place = await hosts?.find(this.timeoutMs, signal);
    signal.throwIfAborted();
    const subscriber = pgListen.default(
      {
        ...connection,
        ...(this.#place && { connectionString: this.#place.url }),
        // The socket is kept so that it can be cut: a black-holed one does not answer the polite end.
        stream: () => (this.#socket = stream?.() ?? new Socket()),
      },
      // retryLimit 1 makes no attempt: a lost connection is an `error` at once. Payloads are never looked at.
      { retryLimit: 1, retryTimeout: 0, paranoidChecking: false, parse: (text) => text },
    );
    subscriber.events.on('error', () => {
      this.isLost = true;
      this.#lost.reject(new ConnectionError('the LISTEN connection was lost', true));
    });
    subscriber.events.on('notification', ({ channel }) => this.onNotification(channel));
    this.#subscriber = subscriber;
    this.#place?.left.addEventListener('abort', this.#leave);
    await this.#promptly('opening the LISTEN connection', subscriber.connect(), signal);
  }

  /** Resolves when notifications on the channel are heard. Twice is fine. */
  async listen(channel: string, signal?: AbortSignal): Promise<void> {
    await this.#inTurn('the answer to LISTEN', () => this.#subscriber?.listenTo(channel), signal);
  }

  async unlisten(channel: string): Promise<void> {
    await this.#inTurn('the answer to UNLISTEN', () => this.#subscriber?.unlisten(channel));
  }

  /** Closes the connection, politely or not. Never rejects. */
  async close(): Promise<void> {
    this.#place?.left.removeEventListener('abort', this.#leave);
    const closing = this.#subscriber?.close() ?? Promise.resolve();
    await withDeadline('closing the LISTEN connection', CLOSE_TIMEOUT_MS, closing).catch(() => undefined);
    this.#socket?.destroy();
  }

  async #inTurn(what: string, send: () => Promise<unknown> | undefined, signal?: AbortSignal): Promise<void> {
    const before = this.#last;
    const sent = before
      .catch(() => undefined)
      .then(() => this.#promptly(what, Promise.resolve(send()), signal));
    this.#last = sent;
    await sent;
  }

  async #promptly(what: string, work: Promise<unknown>, signal?: AbortSignal): Promise<void> {
    try {
      await withDeadline(what, this.timeoutMs, orAbort(work, signal));
    } catch (error) {
      throw driverError(error);
    }
  }
}
