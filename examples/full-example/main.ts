// npm run example: the Full Example of the Producer API page, as a program that ends in good order. See ../README.md.
import { Admin, Config, Producer } from 'pg-sluice';
import { startEmbedded } from 'pg-sluice/embedded';

// Graceful shutdown on Ctrl+C
const stop = new AbortController();
let registered = false;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, end);
// A closed terminal, or `| head`: a write that fails must not end the program before its worker is stopped.
for (const stream of [process.stdout, process.stderr]) stream.on('error', end);

try {
  await main(stop.signal);
} catch (error) {
  if (error === stop.signal.reason) {
    process.exitCode = 130; // not everything was sent
  } else {
    console.error(inOneLine(error));
    process.exitCode = 1;
  }
}

/** Without a worker there is nothing to leave in order: a transaction that is cut off was never there. */
function end(): void {
  if (!registered) process.exit(130);
  if (stop.signal.aborted) return;
  stop.abort();
  console.log('Ending, after what is under way');
}

async function main(signal: AbortSignal): Promise<void> {
  // Setup
  if (!process.env.DATABASE_URL) console.log('Starting a PostgreSQL of its own (there is no DATABASE_URL)');
  await using server = process.env.DATABASE_URL ? undefined : await startEmbedded();
  const config = await Config.load({ dsn: server?.url ?? process.env.DATABASE_URL });
  console.log(`Connecting to ${config.redactedDsn}`);
  await using admin = await Admin.create(config);
  await admin.install();
  const queue = await admin.createQueue('notifications', { ifExists: 'open' });

  // Create producer
  registered = true; // perhaps, from here on
  const producer = await Producer.create({
    pool: admin.pool,
    queue,
    hostname: 'notification-service',
    port: 3000,
    config,
  });

  try {
    console.log(`Producer worker ID: ${producer.workerId}`);

    // Enqueue immediate messages
    signal.throwIfAborted();
    const msg1 = await producer.enqueue({
      type: 'email',
      to: 'user@example.com',
    });
    console.log(`Sent immediate message: ${msg1.id}`);

    // Enqueue delayed message
    signal.throwIfAborted();
    const msg2 = await producer.enqueueDelayed(
      {
        type: 'reminder',
        to: 'user@example.com',
      },
      3600,
    );
    console.log(`Sent delayed message: ${msg2.id} (available in 1 hour)`);

    // Batch enqueue
    signal.throwIfAborted();
    const batch = await producer.batchEnqueue([
      { type: 'sms', to: '+1234567890' },
      { type: 'sms', to: '+0987654321' },
    ]);
    console.log(`Sent batch of ${batch.length} messages`);

    console.log('Press Ctrl-C to end');
    await aborted(signal);
  } finally {
    await producer.close(); // suspend() and shutdown(), from whatever state it is in
    console.log('Producer shut down gracefully');
  }
}

/** Neither a signal handler nor an idle producer keeps a process alive: a timer must. */
async function aborted(signal: AbortSignal): Promise<void> {
  const alive = setInterval(() => undefined, 60_000);
  await new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener('abort', resolve, { once: true });
  });
  clearInterval(alive);
}

function inOneLine(error: unknown): string {
  return String(error).replaceAll(/\s*\n\s*/g, ' ');
}
