// A program that has never seen any of the servers before: it enqueues some messages and ends.
import { connect } from '../../src/index.js';

const [dsn, schema, queue, count] = process.argv.slice(2) as [string, string, string, string];
const sluice = await connect({ dsn, schema });
const producer = await sluice.producer(queue);
for (let n = 0; n < Number(count); n++) await producer.enqueue({ child: n });
await sluice.close();
process.send?.('enqueued');
process.disconnect();
