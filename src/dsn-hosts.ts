/** libpq's words for the servers that will do, and the default where several hosts are given: ours is to write. */
export const TARGETS = ['any', 'read-write', 'read-only', 'primary', 'standby', 'prefer-standby'] as const;
export type Target = (typeof TARGETS)[number];
const DEFAULT_TARGET: Target = 'read-write';

const DEFAULT_PORT = 5432;
const DEFAULT_TIMEOUT_MS = 2_000;

export interface HostAddress {
  /** As messages call it. */
  name: string;
  /** Undefined in a DSN of one host, where it is the driver's to read. */
  at: { host: string; port: number } | undefined;
  /** DSN of this host alone, as the driver takes it: with the password. */
  url: string;
}

export interface DsnHosts {
  hosts: readonly HostAddress[];
  target: Target;
  /** Longest wait for one host, in ms: libpq's `connect_timeout`. */
  timeoutMs: number;
}

/** What a checked DSN says of several hosts, or of the one that will do; undefined where it is any other DSN. */
export function parseHosts(dsn: string): DsnHosts | undefined {
  const { names, target, timeoutMs } = listed(dsn);
  if (names.length === 1 && target === null) return undefined;
  return { hosts: addresses(dsn), target: (target ?? DEFAULT_TARGET) as Target, timeoutMs };
}

/** What is wrong with the hosts of a DSN, without a word of it: in a malformed one the password may be anywhere. */
export function hostsFault(dsn: string): string | undefined {
  const { names, ports, target } = listed(dsn);
  if (target !== null && !(TARGETS as readonly string[]).includes(target))
    return `a target_session_attrs other than ${TARGETS.join(', ')}`;
  if (names.length === 1 && ports.length === 1) return undefined;
  if (names.includes('')) return 'an empty host in a list of hosts';
  if (ports.length > 1 && ports.length !== names.length)
    return `${ports.length} ports for ${names.length} ${names.length === 1 ? 'host' : 'hosts'}`;
  if (!ports.every(isPort)) return 'a port that is not a number from 1 to 65535';
  return addresses(dsn).every(({ url }) => URL.canParse(url))
    ? undefined
    : 'a host that is no name or address';
}

/** A DSN around its hosts, which are no part of a URL when they are several. */
export function aroundHosts(dsn: string): { before: string; hosts: string; after: string } {
  // Of several @ the last one ends the password, as in URL.
  const [, before = '', hosts = '', after = ''] = /^([^:]+:\/\/(?:[^/?#]*@)?)([^/?#]*)(.*)$/s.exec(dsn) ?? [];
  return { before, hosts, after };
}

/** Host and port are lists, each in the authority of the URL or, with precedence, among its parameters. */
function listed(dsn: string) {
  const { hosts, after } = aroundHosts(dsn);
  const inUrl = hosts.split(',').map((item) => /^(\[[^\]]*\]|[^:]*)(?::(.*))?$/s.exec(item) ?? [item, item]);
  const parameters = parametersOf(after);
  const seconds = Number(parameters.get('connect_timeout'));
  return {
    names: parameters.get('host')?.split(',') ?? inUrl.map(([, name = '']) => name),
    ports: parameters.get('port')?.split(',') ?? inUrl.map(([, , port = '']) => port),
    target: parameters.get('target_session_attrs'),
    timeoutMs: seconds > 0 ? seconds * 1_000 : DEFAULT_TIMEOUT_MS,
  };
}

function addresses(dsn: string): HostAddress[] {
  const { before, after } = aroundHosts(dsn);
  const { names, ports } = listed(dsn);
  if (names.length === 1) return [{ name: names[0] || 'the host', at: undefined, url: dsn }];
  const rest = parametersOf(after);
  for (const name of ['host', 'port', 'target_session_attrs', 'connect_timeout']) rest.delete(name);
  const path = after.replace(/[?#].*$/s, '');
  return names.map((name, index) => {
    const host = plain(name);
    const port = Number(ports[ports.length === 1 ? 0 : index] || DEFAULT_PORT);
    const inUrl = host.includes(':') ? `[${host}]` : encodeURIComponent(host);
    const parameters = rest.size === 0 ? '' : `?${rest.toString()}`;
    return {
      name: `${name}:${port}`,
      at: { host, port },
      url: `${before}${inUrl}:${port}${path}${parameters}`,
    };
  });
}

/** As the driver takes it: an IPv6 address without its brackets, the directory of a socket with its slashes. */
function plain(name: string): string {
  const host = name.replace(/^\[(.*)\]$/s, '$1');
  try {
    return decodeURIComponent(host);
  } catch {
    return host;
  }
}

function parametersOf(after: string): URLSearchParams {
  return new URLSearchParams(/\?([^#]*)/s.exec(after)?.[1] ?? '');
}

function isPort(port: string): boolean {
  return port === '' || (/^\d{1,5}$/.test(port) && Number(port) >= 1 && Number(port) <= 65_535);
}
