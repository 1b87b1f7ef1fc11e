import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Producer } from 'pg-sluice';

/** Each line is a message. Lines that are in the queue are read over when it is run again. */
export async function ingestLines(producer: Producer, path: string) {
  return producer.ingest(linesOf(path), { resume: `lines of ${path}` });
}

async function* linesOf(path: string): AsyncGenerator<string> {
  const file = createReadStream(path);
  try {
    yield* createInterface({ input: file, crlfDelay: Infinity });
  } finally {
    file.destroy();
  }
}
