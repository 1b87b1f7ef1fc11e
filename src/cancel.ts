import { isIP, type Socket } from 'node:net';
import pg from 'pg';

/** A server that takes longer is out of reach, or so busy that nothing helps. */
const CANCEL_WITHIN_MS = 1_000;

/** What the driver knows of a connection, in fields that its types do not name. */
export interface Inside {
  host: string;
  port: number;
  processID: number | null;
  secretKey: number | null;
  connection: {
    stream: Socket;
    ssl?: boolean | (object & { key?: unknown });
    sslNegotiation?: string;
  };
}

/** How a connection opens its socket, where not as usual. */
export type OpensStream = pg.ClientConfig['stream'];

/**
 * Asks the server to cancel what the client's backend is at, on a connection of its own: a backend that waits for a
 * lock does not notice that its client is gone. The server closes that connection once the backend has been told; only
 * then may the client's own be cut, since a pooler forgets whose backend it was. Never rejects.
 */
export function cancel(client: pg.ClientBase, stream?: OpensStream): Promise<void> {
  const { processID, secretKey } = client as unknown as Inside;
  if (processID === null || secretKey === null) return Promise.resolve();
  return new Promise((resolve) => {
    const connection = connectionLike(client as unknown as Inside, stream);
    const over = () => {
      clearTimeout(timer);
      connection.stream.destroy();
      resolve();
    };
    const timer = setTimeout(over, CANCEL_WITHIN_MS);
    const send = () => connection.cancel(processID, secretKey);
    connection.on('connect', () => {
      if (!connection.ssl) send();
      else if (connection.sslNegotiation !== 'direct') connection.requestSsl();
    });
    connection.on('sslconnect', send);
    connection.on('error', over);
    connection.on('end', over);
    connection.open();
  });
}

type Connection = pg.Connection & {
  ssl: unknown;
  sslNegotiation: string;
  connect: (port: number | string, host?: string) => void;
  cancel: (processID: number, secretKey: number) => void;
  requestSsl: () => void;
};

/** To the very server that the client is connected to, whatever its name would be resolved to now, and as encrypted. */
function connectionLike({ host, port, connection }: Inside, stream: OpensStream) {
  const { stream: socket, ssl, sslNegotiation } = connection;
  const name = { host, ...(isIP(host) === 0 && { servername: host }) };
  const settings = typeof ssl === 'object' ? { ...ssl, ...('key' in ssl && { key: ssl.key }) } : {};
  const like = new pg.Connection({
    ssl: ssl && { ...settings, ...name },
    sslNegotiation,
    stream,
  } as never) as Connection;
  const { remoteAddress = host, remotePort = port } = stream ? {} : socket;
  const open = () => {
    if (host.startsWith('/')) like.connect(`${host}/.s.PGSQL.${port}`);
    else like.connect(remotePort, remoteAddress);
  };
  return Object.assign(like, { open });
}
