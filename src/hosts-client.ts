import type { Socket } from 'node:net';
import pg from 'pg';
import { ConnectionError } from './errors/index.js';
import type { Hosts } from './hosts.js';

/** How to connect to a database that may have several hosts. */
export type HostsConfig = pg.ClientConfig & { hosts?: Hosts | undefined };

const DEFAULT_TIMEOUT_MS = 30_000;
const READ_ONLY_TRANSACTION = '25006';

/** A client that connects to whichever host is the right one at that moment, and lets go of it when it no longer is. */
export class HostsClient extends pg.Client {
  readonly #hosts: Hosts;
  readonly #findWithinMs: number;

  constructor({ hosts, connectionTimeoutMillis, ...config }: pg.ClientConfig & { hosts: Hosts }) {
    super({ ...config, connectionString: hosts.url, connectionTimeoutMillis: hosts.timeoutMs });
    this.#hosts = hosts;
    // Gives up a little before the pool does, which has no reasons to tell.
    this.#findWithinMs = 0.9 * (connectionTimeoutMillis || DEFAULT_TIMEOUT_MS);
    this.on('error', () => hosts.doubt());
  }

  override connect(): Promise<pg.Client>;
  override connect(callback: (error: Error | null, client?: pg.Client) => void): void;
  override connect(callback?: (error: Error | null, client?: pg.Client) => void): Promise<pg.Client> | void {
    const connected = this.#connect();
    if (!callback) return connected;
    connected.then(
      () => process.nextTick(callback, null, this),
      (error: unknown) => process.nextTick(callback, error),
    );
  }

  /** Has the hosts asked again whether they are what they were. */
  doubt(): void {
    this.#hosts.doubt();
  }

  /** Whether an error of the server means that it is no longer the one to write to. Cuts the connection then. */
  isLeft(error: unknown): boolean {
    if (this.#hosts.target !== 'read-write' || (error as { code?: unknown }).code !== READ_ONLY_TRANSACTION)
      return false;
    this.doubt();
    this.#socket.destroy();
    return true;
  }

  async #connect(): Promise<pg.Client> {
    const { at, left } = await this.#hosts.find(this.#findWithinMs);
    if (this.#socket.destroyed) throw new ConnectionError('the time for connecting is over', true);
    if (at) {
      // Read by the driver as late as this: also for the name in a certificate, and for .pgpass.
      Object.assign(this, at);
      Object.assign((this as unknown as { connectionParameters: object }).connectionParameters, at);
    }
    const leave = () => this.#socket.destroy(left.reason as Error);
    left.addEventListener('abort', leave);
    this.once('end', () => left.removeEventListener('abort', leave));
    try {
      return await super.connect();
    } catch (error) {
      this.#hosts.doubt();
      throw error;
    }
  }

  /** Another one once TLS has begun. */
  get #socket(): Socket {
    return (this as unknown as { connection: { stream: Socket } }).connection.stream;
  }
}
