import { randomUUID } from 'node:crypto';
import { Socket } from 'node:net';
import type { ClientConfig } from 'pg';
import pgListen, { type Subscriber } from 'pg-listen';
import { withDeadline } from './db.js';
import { type Deferred, deferred, orAbort } from './deferred.js';
import { ConnectionError } from './errors.js';

const CONNECT_TIMEOUT_MS = 10_000;
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
  readonly #subscriber: Subscriber;
  readonly #probeChannel = `sluice_probe_${randomUUID().replaceAll('-', '')}`;
  #heard: Deferred<void> | undefined;
  #socket: Socket | undefined;

  constructor(
    connection: ClientConfig,
    onNotification: (channel: string) => void,
    /** Sends a NOTIFY over another connection, as a producer would. */
    private readonly notify: (channel: string) => Promise<void>,
  ) {
    this.lost = this.#lost.promise;
    this.#subscriber = pgListen.default(
      // The socket is ours so that it can be cut: a black-holed one does not answer the polite end.
      { ...connection, stream: () => (this.#socket = new Socket()) },
      // retryLimit 1 makes no attempt: a lost connection is an `error` at once. Payloads are never looked at.
      { retryLimit: 1, retryTimeout: 0, paranoidChecking: false, parse: (text) => text },
    );
    this.#subscriber.events.on('error', (error) => {
      this.isLost = true;
      this.#lost.reject(new ConnectionError(`the LISTEN connection was lost: ${error.message}`, true));
    });
    this.#subscriber.events.on('notification', ({ channel }) => {
      if (channel === this.#probeChannel) this.#heard?.resolve();
      else onNotification(channel);
    });
  }

  async open(channels: Iterable<string>, signal: AbortSignal): Promise<void> {
    const opening = async () => {
      await this.#subscriber.connect();
      for (const channel of [...channels, this.#probeChannel]) await this.listen(channel);
    };
    const opened = opening();
    opened.catch(() => undefined);
    await orAbort(withDeadline('opening the LISTEN connection', CONNECT_TIMEOUT_MS, opened), signal);
  }

  async listen(channel: string): Promise<void> {
    await this.#subscriber.listenTo(channel);
  }

  async unlisten(channel: string): Promise<void> {
    await this.#subscriber.unlisten(channel);
  }

  /** Resolves when a NOTIFY sent by somebody else is heard here; rejects with a TimeoutError when it is not. */
  async probe(timeoutMs: number): Promise<void> {
    this.#heard = deferred();
    await this.notify(this.#probeChannel);
    await withDeadline('hearing a NOTIFY of our own', timeoutMs, this.#heard.promise);
  }

  /** Closes the connection, politely or not. Never rejects. */
  async close(): Promise<void> {
    await withDeadline('closing the LISTEN connection', CLOSE_TIMEOUT_MS, this.#subscriber.close()).catch(
      () => undefined,
    );
    this.#socket?.destroy();
  }
}
