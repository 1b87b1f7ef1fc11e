import pg from 'pg';
import { withDeadline } from './deferred.js';
import { driverError } from './driver-error.js';
import { PermissionDeniedError } from './errors/index.js';
import { type HostState, SELECT_HOST_STATE, SELECT_HOST_STATE_ONLY } from './sql/host-state.js';

/** Asks a server what it is, on a connection of its own. */
export async function probe(url: string, timeoutMs: number): Promise<HostState> {
  const client = new pg.Client({ connectionString: url, application_name: 'pg-sluice' });
  client.on('error', () => undefined);
  try {
    const state = await withDeadline('an answer', timeoutMs, ask(client));
    client.end().catch(() => undefined);
    return state;
  } catch (error) {
    (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    throw driverError(error);
  }
}

async function ask(client: pg.Client): Promise<HostState> {
  await client.connect();
  try {
    return await stateBy(client, SELECT_HOST_STATE);
  } catch (error) {
    if (!(driverError(error) instanceof PermissionDeniedError)) throw error;
    return stateBy(client, SELECT_HOST_STATE_ONLY);
  }
}

async function stateBy(client: pg.Client, statement: string): Promise<HostState> {
  const { rows } = await client.query<HostState>(statement);
  return rows[0] as HostState;
}
