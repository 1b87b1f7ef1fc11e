/* A process that ingests under a name when it is told to, and may be killed at any moment. Tells how it ended. */
import { once } from 'node:events';
import { connect, type IngestSource, type SluiceError, type WritableOptions } from '../../src/index.js';
import { endOf, objectsBehind } from '../../examples/resume/file-by-byte-offset.js';
import { numbered } from './scenario.js';

export interface Orders {
  rows?: number;
  /** A file of lines with a JSON object each, instead of so many rows. */
  file?: string;
  batchSize: number;
  concurrency?: number;
  /** Whether it reads over the beginning, instead of being opened behind it. */
  readOver?: boolean;
}

const [, , url, schema, resume, orders] = process.argv as [string, string, string, string, string, string];
const { rows = 0, file, readOver, ...options } = JSON.parse(orders) as Orders;
const tell = (message: unknown) => new Promise<void>((resolve) => process.send?.(message, () => resolve()));

await once(process, 'message');
const sluice = await connect({ dsn: url, schema, maxConnections: 4 });
const producer = await sluice.producer('work');

function job(): [IngestSource<object>, WritableOptions<object>] {
  if (file === undefined) {
    const open = (from?: string) => numbered(rows - Number(from ?? 0), Number(from ?? 0));
    return [readOver ? open() : open, { resume }];
  }
  return [(from) => objectsBehind(file, from), { resume: { name: resume, position: endOf } }];
}

const [source, more] = job();
try {
  const { committed, position } = await producer.ingest(source, { ...options, ...more, lingerMs: 5 });
  await tell({ committed, position });
} catch (error) {
  const { code, message, progress } = error as Partial<SluiceError>;
  await tell({ failed: code ?? message, progress });
}
await sluice.close();
process.disconnect();
