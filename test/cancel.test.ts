import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TLSSocket } from 'node:tls';
import type pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { cancel } from '../src/cancel.js';
import { within } from './support/eventually.js';

const SSL_REQUEST = 80877103;
const CANCEL_REQUEST = 80877102;

/** A key and a certificate of its own; undefined where this machine cannot make one. */
const certificate = (() => {
  const folder = mkdtempSync(join(tmpdir(), 'pg-sluice-tls-'));
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  const settings = ['-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost'];
  try {
    execFileSync('openssl', ['req', '-x509', ...settings, '-keyout', key, '-out', cert], { stdio: 'ignore' });
    return { key: readFileSync(key), cert: readFileSync(cert) };
  } catch {
    return undefined;
  } finally {
    rmSync(folder, { recursive: true });
  }
})();
if (!certificate)
  console.warn('cancelling over TLS is not tested: there is no openssl to make a certificate');

/** What a server is sent at first on each connection, behind TLS if it is asked for that. */
async function server(): Promise<{ port: number; heard: Buffer[]; sockets: Set<Socket> }> {
  const heard: Buffer[] = [];
  const sockets = new Set<Socket>();
  const listening = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('data', (data) => {
      if (data.readInt32BE(4) !== SSL_REQUEST) {
        heard.push(data);
        socket.end();
        return;
      }
      socket.write('S');
      const tls = new TLSSocket(socket, { isServer: true, ...certificate });
      tls.once('data', (hidden: Buffer) => {
        heard.push(Buffer.concat([Buffer.from('tls'), hidden]));
        tls.end();
      });
    });
  });
  await new Promise<void>((resolve) => listening.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    listening.close();
  });
  return { port: (listening.address() as AddressInfo).port, heard, sockets };
}

function client(port: number, ssl: unknown): pg.ClientBase {
  const stream = { remoteAddress: '127.0.0.1', remotePort: port };
  const fields = { host: 'name.invalid', port: 1, processID: 7, secretKey: 9, connection: { stream, ssl } };
  return fields as unknown as pg.ClientBase;
}

function isCancel(data: Buffer | undefined): boolean {
  return (
    [data?.readInt32BE(4), data?.readInt32BE(8), data?.readInt32BE(12)].join() === `${CANCEL_REQUEST},7,9`
  );
}

test('the request goes to the address that the client is connected to, whatever its name', async () => {
  const { port, heard } = await server();
  await cancel(client(port, false));
  expect(heard).toHaveLength(1);
  expect(isCancel(heard[0])).toBe(true);
});

test.skipIf(!certificate)('it is encrypted where the connection is', async () => {
  const { port, heard } = await server();
  await cancel(client(port, { rejectUnauthorized: false }));
  expect(heard).toHaveLength(1);
  expect(heard[0]?.subarray(0, 3).toString()).toBe('tls');
  expect(isCancel(heard[0]?.subarray(3))).toBe(true);
});

test.skipIf(!certificate)('a certificate that is not trusted is told nothing', async () => {
  const { port, heard } = await server();
  await cancel(client(port, true));
  expect(heard).toEqual([]);
});

test('a server that is gone, or silent, is not waited for', async () => {
  const silent = createServer(() => undefined);
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void silent.close());
  const { port } = silent.address() as AddressInfo;
  for (const ssl of [false, true]) await within(5_000, 'a silent server', cancel(client(port, ssl)));
  await within(5_000, 'no server', cancel(client(1, false)));
});
