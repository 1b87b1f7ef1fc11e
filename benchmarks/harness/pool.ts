import pg from 'pg';

/** A pool beside the library's, as a program without the library would have it. */
export function openPool(url: string, max: number): pg.Pool {
  const pool = new pg.Pool({ connectionString: url, max });
  // end() does not wait for the sockets: the server, which is stopped right after, may still have a word for them.
  return pool.on('error', () => undefined);
}
