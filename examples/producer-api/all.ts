// Runs all examples in the order of the page, in a schema that is removed again. See ../README.md.
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { Config, connect } from 'pg-sluice';
import { startEmbedded } from 'pg-sluice/embedded';
import { batchEnqueue } from './batch-enqueue.js';
import { creatingAProducer, creatingAProducerInShort } from './creating-a-producer.js';
import { EmailService } from './email-service.js';
import { enqueueDelayed } from './enqueue-delayed.js';
import { placeOrder } from './enqueue-in-transaction.js';
import { enqueue } from './enqueue.js';
import { extendVisibility } from './extend-visibility.js';
import { enqueueWithBuiltInRetry, enqueueWithRetry } from './producer-with-retry.js';
import {
  enqueueWithBuiltInRateLimit,
  enqueueWithRateLimit,
  streamWithRateLimit,
} from './rate-limited-producer.js';
import { typedByHand, typedProducer } from './typed-producer.js';
import { workerMethods } from './worker-methods.js';

await using server = process.env.DATABASE_URL ? undefined : await startEmbedded();
const dsn = server?.url ?? process.env.DATABASE_URL ?? '';
const schema = `sluice_examples_${randomUUID().replaceAll('-', '')}`;
const config = Config.fromDsn(dsn, { schema });
const pool = new pg.Pool({ connectionString: dsn, options: `-c search_path=${schema}` });

try {
  await using sluice = await connect({ pool, schema });
  await sluice.admin.install();
  const queue = await sluice.admin.createQueue('tasks');
  for (const name of ['emails', 'reminders']) await sluice.admin.createQueue(name);
  await pool.query('create table orders (customer_id bigint not null, total numeric not null)');
  const payloads = Array.from({ length: 20 }, (_, n) => ({ n }));

  title('Creating a Producer');
  console.log(await creatingAProducer(config), await creatingAProducerInShort(config));
  const producer = await sluice.producer('tasks');

  title('enqueue');
  await enqueue(producer);
  title('batchEnqueue');
  await batchEnqueue(producer);
  title('enqueueDelayed');
  await enqueueDelayed(producer);
  title('extendVisibility');
  const [message] = await (await sluice.consumer('tasks')).dequeueMany(1);
  await extendVisibility(producer, message?.id);
  title('Worker Methods');
  console.log(await workerMethods(await sluice.producer('tasks')));

  title('Async Producer Service');
  const service = await EmailService.create(sluice.admin, queue, config);
  console.log(await service.sendWelcome(1), await service.sendBatch([2, 3]));
  await service.close();
  title('Rate-Limited Producer');
  console.log(await enqueueWithRateLimit(producer, payloads, 100));
  console.log(await enqueueWithBuiltInRateLimit(sluice, payloads, 100));
  await streamWithRateLimit(producer, payloads, 100);
  title('Producer with Retry');
  console.log(await enqueueWithRetry(producer, { to: 'user@example.com' }, 3));
  console.log(await enqueueWithBuiltInRetry(sluice, { to: 'user@example.com' }, 3));

  title('Typed Producer');
  console.log(await typedProducer(sluice), await typedByHand(sluice));
  title('Enqueue in a Transaction');
  console.log(await placeOrder(pool, producer, { customerId: 12345, total: 99.5 }));

  title('Full Example');
  console.log('npm run example');
} finally {
  await pool.query(`drop schema if exists ${schema} cascade`);
  await pool.end();
}

function title(text: string): void {
  console.log(`\n== ${text}`);
}
