import pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';

const SIGNATURE = Buffer.from('PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0', 'latin1');
const TRAILER = Buffer.from([0xff, 0xff]);
const JSONB_VERSION = 1;

/**
 * What one would write by hand: objects become rows of binary COPY as ours do, in batches, each batch a COPY of its own
 * that commits by itself, on as many clients as are to be in flight. No ledger, no order, nothing pinned, no retries.
 */
export async function plainCopy(
  clients: readonly pg.Client[],
  into: { schema: string; queueId: string; workerId: string },
  items: Iterator<object>,
  batchSize: number,
): Promise<void> {
  const header = rowHeader(into.queueId, into.workerId);
  const text = `copy ${into.schema}.pgqrs_messages (queue_id, producer_worker_id, origin, payload) from stdin (format binary)`;
  await Promise.all(
    clients.map(async (client) => {
      const buffer = Buffer.allocUnsafe(batchSize * 512);
      for (;;) {
        const batch = fill(buffer, header, items, batchSize);
        if (!batch) return;
        const stream = client.query(copyFrom(text));
        await new Promise<void>((resolve, reject) => {
          stream.on('finish', resolve).on('error', reject);
          for (let at = 0; at < batch.length; at += 262_144) stream.write(batch.subarray(at, at + 262_144));
          stream.end();
        });
      }
    }),
  );
}

function fill(
  buffer: Buffer,
  header: Buffer,
  items: Iterator<object>,
  batchSize: number,
): Buffer | undefined {
  let at = SIGNATURE.copy(buffer);
  let count = 0;
  while (count < batchSize) {
    const item = items.next() as IteratorResult<object, undefined>;
    if (item.done) break;
    const body = at + header.length + 5;
    const written = buffer.write(JSON.stringify(item.value), body);
    header.copy(buffer, at);
    buffer.writeInt32BE(written + 1, body - 5);
    buffer[body - 1] = JSONB_VERSION;
    at = body + written;
    count++;
  }
  return count === 0 ? undefined : buffer.subarray(0, at + TRAILER.copy(buffer, at));
}

function rowHeader(queueId: string, workerId: string): Buffer {
  const header = Buffer.alloc(32);
  let at = header.writeInt16BE(4);
  for (const id of [queueId, workerId]) at = header.writeBigInt64BE(BigInt(id), header.writeInt32BE(8, at));
  header.writeInt16BE(1, header.writeInt32BE(2, at));
  return header;
}

export async function connected(url: string, count: number): Promise<pg.Client[]> {
  const clients = Array.from({ length: count }, () => new pg.Client({ connectionString: url }));
  await Promise.all(clients.map((client) => client.connect()));
  return clients;
}
