import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/** One connection through the proxy. */
export interface Link {
  /** For the test, to act later on what it has seen. */
  readonly notes: Set<string>;
  /** Resets both sides. */
  cut(): void;
  /** Forwards nothing any more, and keeps both sides open. */
  hole(): void;
  /** Sends bytes to the server in the client's name; resolves with what it answers next. */
  ask(data: Buffer): Promise<Buffer>;
}

/**
 * What becomes of some bytes:
 * - pass: they go on;
 * - drop: they are lost, what follows is not;
 * - cut: they are lost, and both sides are reset;
 * - passThenCut: they go on, and both sides are reset as soon as they are handed over;
 * - hole: they are lost, and from now on the connection is silent.
 */
export type Fate = 'pass' | 'drop' | 'cut' | 'passThenCut' | 'hole';

export interface Bytes {
  link: Link;
  from: 'client' | 'server';
  data: Buffer;
}

export interface Proxy extends AsyncDisposable {
  /** The server's URL, through the proxy. */
  url: string;
  readonly links: ReadonlySet<Link>;
  /** Decides on everything that comes by. */
  judge: (bytes: Bytes) => Fate;
  /** What becomes of new connections. */
  door: 'open' | 'shut' | 'hole';
  cutAll(): void;
}

/** A proxy in front of the server at `url` that breaks connections at the moment a test wants. */
export async function startProxy(url: string): Promise<Proxy> {
  const target = new URL(url);
  const links = new Set<Link>();
  const server = createServer((client) => {
    client.on('error', () => undefined);
    if (proxy.door === 'shut') client.resetAndDestroy();
    else if (proxy.door === 'open') join(client);
    else silent.add(client);
  });
  const silent = new Set<Socket>();

  const join = (client: Socket) => {
    const upstream = connect(Number(target.port), target.hostname);
    const sides = { client, server: upstream };
    let open = true;
    const link: Link = {
      notes: new Set(),
      cut: () => {
        open = false;
        client.resetAndDestroy();
        upstream.resetAndDestroy();
      },
      hole: () => {
        open = false;
      },
      ask: (data) =>
        new Promise((resolve) => {
          upstream.once('data', resolve);
          upstream.write(data);
        }),
    };
    links.add(link);
    for (const from of ['client', 'server'] as const) {
      const source = sides[from];
      const sink = sides[from === 'client' ? 'server' : 'client'];
      source.setNoDelay(true);
      source.on('error', () => undefined);
      source.on('data', (data) => {
        if (!open) return;
        const fate = proxy.judge({ link, from, data });
        if (fate === 'drop') return;
        if (fate === 'cut') link.cut();
        else if (fate === 'hole') link.hole();
        else if (fate === 'passThenCut') sink.write(data, () => link.cut());
        else if (!sink.write(data)) {
          source.pause();
          sink.once('drain', () => source.resume());
        }
      });
      source.on('close', () => {
        links.delete(link);
        if (open) sink.destroy();
        else silent.add(sink);
      });
    }
  };

  const proxy: Proxy = {
    url: '',
    links,
    judge: () => 'pass',
    door: 'open',
    cutAll: () => {
      for (const link of links) link.cut();
    },
    [Symbol.asyncDispose]: async () => {
      proxy.cutAll();
      for (const socket of silent) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const through = new URL(url);
  through.hostname = '127.0.0.1';
  through.port = String((server.address() as AddressInfo).port);
  proxy.url = through.href;
  return proxy;
}

/** Whether the client asks to commit. */
export function asksToCommit({ from, data }: Bytes): boolean {
  return from === 'client' && data.includes('; commit');
}

/** Whether the server says that it has committed: the tag of CommandComplete. */
export function saysCommitted({ from, data }: Bytes): boolean {
  return from === 'server' && data.includes('COMMIT\0');
}

/** Whether the client sends rows of a COPY. */
export function sendsRows({ from, data }: Bytes): boolean {
  return from === 'client' && data.includes('PGCOPY\n');
}
