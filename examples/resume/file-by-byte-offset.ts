import { createReadStream } from 'node:fs';
import type { Producer } from 'pg-sluice';

/** Each line of a file holds a JSON object, which becomes a message. Nothing is read twice, however long the file is. */
export async function ingestFile(producer: Producer, path: string) {
  const position = endOf;
  return producer.ingest((offset) => objectsBehind(path, offset), {
    resume: { name: `file ${path}`, position },
  });
}

/** Where in the file an object's line ends: kept beside the object, since it is no part of the message. */
const ends = new WeakMap<object, number>();

export function endOf(object: object): number {
  return ends.get(object) ?? 0;
}

export async function* objectsBehind(path: string, offset = '0'): AsyncGenerator<object> {
  let end = Number(offset);
  let unread = Buffer.alloc(0);
  for await (const chunk of createReadStream(path, { start: end }) as AsyncIterable<Buffer>) {
    unread = Buffer.concat([unread, chunk]);
    let start = 0;
    for (let newline; (newline = unread.indexOf('\n', start)) >= 0; start = newline + 1) {
      const object = JSON.parse(unread.toString('utf8', start, newline)) as object;
      ends.set(object, (end += newline + 1 - start));
      yield object;
    }
    // A line that is still being written waits for its end.
    unread = unread.subarray(start);
  }
}
