import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { connect } from 'pg-sluice';
import { startEmbedded } from 'pg-sluice/embedded';

/** What a deployed worker finds, for one that has nothing: a PostgreSQL, messages, and who receives webhooks. */
export async function tryOut(queue: string): Promise<AsyncDisposable & { url: string }> {
  console.log('Starting a PostgreSQL of its own (there is no DATABASE_URL)');
  const server = await startEmbedded();
  // Answers with the status that is asked for.
  const receiver = createServer((request, response) => {
    const status = Number(request.url?.slice(1));
    response.writeHead(status, status === 503 ? { 'retry-after': '2' } : {}).end();
  });
  const end = async () => {
    receiver.close();
    await server.stop();
  };
  try {
    receiver.listen(0, '127.0.0.1');
    await once(receiver, 'listening');
    const { port } = receiver.address() as AddressInfo;
    await fill(server.url, queue, `http://127.0.0.1:${port}`);
  } catch (error) {
    await end();
    throw error;
  }
  return { url: server.url, [Symbol.asyncDispose]: end };
}

async function fill(url: string, queue: string, receiver: string): Promise<void> {
  await using sluice = await connect(url);
  const { admin } = sluice;
  await admin.install();
  await admin.createQueue(queue);
  await admin.pool.query('create table balances (account text primary key, cents bigint not null)');
  const producer = await sluice.producer(queue);
  await producer.batchEnqueue(
    queue === 'payments'
      ? [95_000, -95_000].map((cents) => ({ account: 'rent', cents }))
      : [204, 204, 410, 503, 500].map((status) => ({
          url: `${receiver}/${status}`,
          body: { hello: 'there' },
        })),
  );
}
