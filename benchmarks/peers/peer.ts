import type pg from 'pg';

/** One way of consuming a backlog, in tables of its own. */
export interface Contender {
  name: string;
  /** The release that runs. */
  version: string;
  /** Empties the tables, and puts that many orders in. */
  fill: (count: number) => Promise<void>;
  /** Resolves when all of them are handled and acknowledged. @returns how many the handler saw */
  consume: (count: number) => Promise<number>;
  /** How many are not acknowledged. */
  left: () => Promise<number>;
  /** Leaves nothing that the server would clean up in another's time. */
  empty: () => Promise<void>;
}

/** A peer's contenders, and its connections. */
export interface Peer {
  contenders: readonly Contender[];
  close: () => Promise<void>;
}

/** What a peer gets: the server, and a client for SQL outside of what is measured. */
export interface Place {
  url: string;
  client: pg.Client;
}

/** The one number that a statement answers. */
export async function countBy(client: pg.Client, text: string): Promise<number> {
  const { rows } = await client.query<[string]>({ text, rowMode: 'array' });
  return Number(rows[0]?.[0]);
}
