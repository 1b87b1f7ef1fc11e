import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** A server in front of the database that counts what clients have it execute. */
export interface StatementCounter {
  /** The database by way of the counter. */
  url: string;
  /** Statements so far, of all connections: notifications, heartbeats and BEGINs too. */
  count: () => number;
  close: () => void;
}

/** Types of messages that execute a statement: Query and Execute. */
const EXECUTING = new Set(['Q'.charCodeAt(0), 'E'.charCodeAt(0)]);

/** Counts on the wire, and so exactly; for connections without TLS, as to an embedded server. */
export async function countStatements(url: string): Promise<StatementCounter> {
  const { hostname, port } = new URL(url);
  const sockets = new Set<Socket>();
  let statements = 0;
  const server = createServer((client) => {
    const database = connect(Number(port || 5_432), hostname);
    const count = counter(() => statements++);
    for (const [from, to] of [
      [client, database],
      [database, client],
    ] as const) {
      sockets.add(from.setNoDelay());
      from.on('error', () => to.destroy()).on('close', () => to.destroy());
      from.pipe(to);
    }
    client.on('data', count);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const through = new URL(url);
  through.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    url: through.href,
    count: () => statements,
    close: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Follows one connection's messages: a type, a length that counts itself, a body. Only the first has no type. */
function counter(onStatement: () => void): (chunk: Buffer) => void {
  let pending = Buffer.alloc(0);
  let typeBytes = 0;
  return (chunk) => {
    pending = Buffer.concat([pending, chunk]);
    while (pending.length >= typeBytes + 4) {
      const end = typeBytes + pending.readUInt32BE(typeBytes);
      if (pending.length < end) return;
      if (typeBytes === 1 && EXECUTING.has(pending[0] ?? 0)) onStatement();
      pending = pending.subarray(end);
      typeBytes = 1;
    }
  };
}
