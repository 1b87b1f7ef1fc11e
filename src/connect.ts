import type pg from 'pg';
import { Admin } from './admin.js';
import * as check from './check.js';
import { Consumer } from './consumer.js';
import { consumerSettings, type ConsumerOptions } from './consumer-options.js';
import { Config, type ConfigOptions } from './config.js';
import { CONFIG_NAMES, SETTING_NAMES } from './config-source.js';
import { Db } from './db.js';
import { checkDsn } from './dsn.js';
import { ping } from './sql/notify.js';
import { ClosedError } from './errors/index.js';
import { Hosts } from './hosts.js';
import type { HostsConfig } from './hosts-client.js';
import { Listener } from './listener.js';
import { Producer } from './producer.js';
import { producerSettings, type ProducerOptions } from './producer-options.js';
import type { Worker } from './worker.js';

/** A URL, a Config, single settings, or a pool of the caller's with its schema. */
export type ConnectOptions = string | Config | ConfigOptions | ConnectWithPool;

export interface ConnectWithPool extends Omit<ConfigOptions, 'dsn'> {
  /** Used and never ended by us. Its size is the caller's, not `maxConnections`. */
  pool: pg.Pool;
}

/** Settings beside what says where the database is; where both say something, these count. */
export interface ConnectSettings extends Omit<ConfigOptions, 'dsn'> {
  /**
   * URL of the same database for the one connection that waits for notifications. Needed where the other URL leads to
   * a pooler in transaction mode, such as PgBouncer, behind which no notification arrives: give the server's own.
   * Without it consumers would emit `deaf` and poll.
   * @default where the database is
   */
  listenUrl?: string;
}

export const CONNECT_SETTINGS: check.Names<ConnectSettings> = { ...SETTING_NAMES, listenUrl: true };
export const CONNECT_WITH_POOL: check.Names<ConnectWithPool> = { ...SETTING_NAMES, pool: true };

/** One database with queues: hands out admin, producers and consumers, and closes what it handed out. */
export class Sluice implements AsyncDisposable {
  readonly admin: Admin;
  readonly #db: Db;
  readonly #listener: Listener;
  readonly #workers = new Set<Worker>();
  /** Registrations under way. */
  readonly #opening = new Set<Promise<Worker>>();
  #closed: Promise<void> | undefined;

  /** @internal use connect() */
  constructor(
    db: Db,
    private readonly config: Config,
    listener: Listener,
  ) {
    this.#db = db;
    this.#listener = listener;
    this.admin = Admin.over(db, config);
  }

  /**
   * Registers a producer of an existing queue, under a name of its own unless `port` is given.
   * @throws {QueueNotFoundError} no queue is created silently
   * @throws {WorkerAlreadyActiveError} a live worker has that hostname and port
   *
   * @example
   * const producer = await sluice.producer<Email>('emails');
   *
   * @example
   * const producer = await sluice.producer('emails', { schema: z.object({ to: z.email() }) });
   */
  async producer<In = unknown, Out = In>(
    queueName: string,
    options: ProducerOptions<In, Out> = {},
  ): Promise<Producer<In, Out>> {
    this.#assertOpen();
    const settings = producerSettings('sluice.producer()', this.config, options);
    return this.#own(async () =>
      Producer.open<In, Out>(this.#db, await this.admin.getQueue(queueName), settings),
    );
  }

  /**
   * Registers a consumer of an existing queue, under a name of its own unless `port` is given. All consumers share
   * one connection for notifications.
   * @throws {QueueNotFoundError}
   */
  async consumer(queueName: string, options: ConsumerOptions = {}): Promise<Consumer> {
    this.#assertOpen();
    const settings = consumerSettings('sluice.consumer()', this.config, options);
    return this.#own(async () =>
      Consumer.open(this.#db, await this.admin.getQueue(queueName), this.#listener, settings),
    );
  }

  /** Closes every producer and consumer, then the connections. Twice is fine. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const closing = await Promise.allSettled([...this.#workers].map((worker) => worker.close()));
    await Promise.allSettled(this.#opening);
    await this.#listener.close();
    await this.#db.close();
    const failed = closing.find((result) => result.status === 'rejected');
    if (failed) throw failed.reason as Error;
  }

  /** close() waits for a registration that is under way: left behind, it would keep its name from the next process. */
  async #own<W extends Worker>(open: () => Promise<W>): Promise<W> {
    const opening = open().then(async (worker) => {
      if (this.#closed) {
        await worker.close();
      } else {
        worker.once('closed', () => this.#workers.delete(worker));
        this.#workers.add(worker);
      }
      return worker;
    });
    this.#opening.add(opening);
    try {
      const worker = await opening;
      this.#assertOpen();
      return worker;
    } finally {
      this.#opening.delete(opening);
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw new ClosedError('the connection to the database');
  }
}

/**
 * The short way in.
 *
 * @example
 * await using sluice = await connect(process.env.DATABASE_URL);
 * const producer = await sluice.producer('notifications');
 *
 * @example
 * const sluice = await connect(process.env.DATABASE_URL, { schema: 'jobs', maxConnections: 8 });
 *
 * @example
 * const sluice = await connect('postgres://pgbouncer:6432/app', { listenUrl: 'postgres://db:5432/app' });
 *
 * @throws {MissingConfigError} there is no URL
 * @throws {InvalidOptionError} a setting breaks its rule
 * @throws {ConnectionError} the database cannot be reached
 */
export async function connect(
  where: ConnectOptions | undefined,
  settings: ConnectSettings = {},
): Promise<Sluice> {
  const { listenUrl, ...changes } = check.options('connect()', settings, CONNECT_SETTINGS);
  const connection = listenUrl === undefined ? {} : { connection: listenConnection(listenUrl) };
  const { db, config } = open(where ?? {}, changes);
  try {
    await ping(db);
  } catch (error) {
    await db.close();
    throw error;
  }
  return new Sluice(db, config, new Listener(db, connection));
}

function listenConnection(listenUrl: string): HostsConfig {
  const hosts = Hosts.of(checkDsn('listenUrl', listenUrl));
  return { ...(hosts ? { hosts } : { connectionString: listenUrl }), application_name: 'pg-sluice' };
}

function open(where: ConnectOptions, changes: Omit<ConfigOptions, 'dsn'>): { db: Db; config: Config } {
  if (isPoolOptions(where)) {
    const { pool, ...settings } = check.options('connect()', where, CONNECT_WITH_POOL);
    check.pool('pool', pool);
    // The pool knows where the database is; the settings are checked like any others.
    const config = Config.fromDsn('postgresql://in-the-pool', { ...settings, ...changes });
    return { db: Db.over(pool, config.schema), config };
  }
  const config = configOf(where).with(changes);
  const { schema, maxConnections, connectionTimeoutSeconds } = config;
  return {
    db: Db.open(config.dsn, { schema, maxConnections, connectTimeoutMs: connectionTimeoutSeconds * 1_000 }),
    config,
  };
}

function isPoolOptions(where: ConnectOptions): where is ConnectWithPool {
  return check.read('options of connect()', 'an object', () => check.isObject(where) && 'pool' in where);
}

function configOf(where: string | Config | ConfigOptions): Config {
  if (typeof where === 'string') return Config.fromDsn(where);
  if (check.read('options of connect()', 'an object', () => where instanceof Config)) return where as Config;
  const { dsn, ...settings } = check.options('connect()', where, CONFIG_NAMES);
  return Config.fromDsn(dsn as string, settings);
}
