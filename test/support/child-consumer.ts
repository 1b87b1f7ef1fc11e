/* A process of its own: what it does depends on the first argument. Tells its parent what happens. */
import pg from 'pg';
import { Config, connect, Consumer } from '../../src/index.js';

const [, , role, url, schema] = process.argv as [string, string, string, string, string];
const tell = (message: unknown) => process.send?.(message);

const roles: Record<string, () => Promise<void>> = {
  /** Takes one message, closes everything, and must then end by itself. */
  'take one and close': async () => {
    const sluice = await connect({ dsn: url, schema, pollIntervalMs: 3_600_000 });
    const consumer = await sluice.consumer('work');
    consumer.on('listening', () => tell('listening'));
    for await (const message of consumer.messages()) {
      tell(message.payload);
      await message.archive();
      break;
    }
    await sluice.close();
    process.disconnect();
  },

  /** Closes while it still waits for messages. */
  'close while waiting': async () => {
    const sluice = await connect({ dsn: url, schema, pollIntervalMs: 3_600_000 });
    const consumer = await sluice.consumer('work');
    consumer.messages().resume();
    consumer.on('listening', () => {
      void sluice.close().then(() => process.disconnect());
    });
  },

  /** Registers and closes nothing: no timer of the worker may keep it alive. */
  'just register': async () => {
    const pool = new pg.Pool({ connectionString: url, allowExitOnIdle: true });
    const queue = await pool.query<{ id: string }>(
      `select id::text from ${schema}.pgqrs_queues where queue_name = 'work'`,
    );
    await Consumer.create({
      pool,
      queue: { id: queue.rows[0]!.id, name: 'work', createdAt: new Date() },
      config: Config.fromDsnWithSchema(url, schema),
      heartbeatIntervalSeconds: 0.05,
    });
    tell('registered');
    process.disconnect();
  },

  /** Enqueues one message for each that its parent sends. */
  produce: async () => {
    const sluice = await connect({ dsn: url, schema });
    const producer = await sluice.producer('work');
    process.on('message', (payload) => {
      void producer.ingest([payload], { lingerMs: 0 }).then(() => tell(Date.now()));
    });
    process.on('disconnect', () => process.exit());
    tell('ready');
  },
};

await roles[role]!();
