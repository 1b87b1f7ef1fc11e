import { once } from 'node:events';
import type pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';

/**
 * Sends `chunks` by COPY ... FROM STDIN and resolves with the number of rows. After a failure the client is not fit
 * for use, nor even for a ROLLBACK.
 * @param isOver from then on no chunk is taken
 */
export async function copyIn(
  client: pg.ClientBase,
  text: string,
  chunks: Iterable<Buffer>,
  isOver: () => boolean = () => false,
): Promise<number> {
  const copy = client.query(copyFrom(text));
  // `error` may fire twice, the second time when nobody awaits it any more, and `close` never.
  let failed = false;
  copy.on('error', () => (failed = true));
  const iterator = chunks[Symbol.iterator]();
  // One chunk at a time: after an error the stream is not destroyed, and one more write would throw a TypeError.
  const writeNext = (error?: Error | null) => {
    if (error || failed || isOver()) return;
    const next = iterator.next();
    if (next.done) copy.end();
    else copy.write(next.value, writeNext);
  };
  writeNext();
  await once(copy, 'finish');
  return copy.rowCount;
}
