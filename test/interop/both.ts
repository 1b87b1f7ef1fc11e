import { onTestFinished } from 'vitest';
import { connect, type Sluice } from '../../src/index.js';
import { type FreshSchema, freshSchema } from '../support/database.js';
import { Peer, type PeerMessage } from './peer.js';

/** One schema, used by pgqrs and by us. */
export interface Both extends FreshSchema {
  peer: Peer;
  sluice: Sluice;
  /** Rows of pgqrs_messages as the server prints them in JSON, microseconds included. */
  rows: () => Promise<PeerMessage[]>;
}

/** The schema exists; who installs is the test's matter. */
export async function both(): Promise<Both> {
  const fresh = freshSchema();
  onTestFinished(() => fresh.drop());
  await fresh.pool.query(`create schema ${fresh.schema}`);
  const sluice = await connect({ dsn: fresh.url, schema: fresh.schema });
  onTestFinished(() => sluice.close());
  const rows = async () => {
    const { rows: found } = await fresh.pool.query<{ row: PeerMessage }>(
      `select to_jsonb(m) - 'origin' as row from ${fresh.schema}.pgqrs_messages m order by id`,
    );
    return found.map(({ row }) => row);
  };
  return { ...fresh, peer: new Peer(fresh.url, fresh.schema), sluice, rows };
}

/** A timestamp of either side in microseconds since 1970. */
export function micros(time: string | null): bigint | null {
  if (time === null) return null;
  const fraction = /\.(\d+)/.exec(time)?.[1] ?? '';
  const seconds = Date.parse(time.replace(/\.\d+/, '')) / 1_000;
  return BigInt(seconds) * 1_000_000n + BigInt(fraction.padEnd(6, '0').slice(0, 6));
}

/** With times in microseconds, so that both sides' ways to write them are the same. */
export const exactly = (message: PeerMessage) => ({
  ...message,
  vt: micros(message.vt),
  enqueued_at: micros(message.enqueued_at),
  dequeued_at: micros(message.dequeued_at),
  archived_at: micros(message.archived_at),
});
