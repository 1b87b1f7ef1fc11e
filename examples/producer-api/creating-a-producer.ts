import { Admin, Config, connect, Producer } from 'pg-sluice';

export async function creatingAProducer(config = Config.fromDsn('postgresql://localhost/mydb')) {
  await using admin = await Admin.create(config);
  const queue = await admin.getQueue('tasks');

  await using producer = await Producer.create({
    pool: admin.pool, // Database connection pool
    queue, // Queue to produce to
    hostname: 'my-service', // Hostname for worker identification
    port: 3000, // Port for worker identification
    config, // Configuration
  });

  // `await using` closes both at the end of the block. Without it: producer.close(), then admin.close().
  return producer.workerId;
}

/** The same in short: `connect()` also takes a URL, and closes all that it handed out. */
export async function creatingAProducerInShort(config = Config.fromDsn('postgresql://localhost/mydb')) {
  await using sluice = await connect(config);
  const producer = await sluice.producer('tasks', { hostname: 'my-service', port: 3000 });

  return producer.workerId;
}
