import { aroundHosts, hostsFault } from './dsn-hosts.js';
import { InvalidOptionError } from './errors/index.js';

/** What a message shows as an example of a DSN. */
export const DSN_EXAMPLE = 'postgres://user:password@host:5432/database';

/**
 * Refuses what is not a PostgreSQL URL, of one host or of several. Its parameters, such as `sslmode`, are left to the
 * driver, but for those about hosts.
 * The message says what is wrong and quotes nothing of the DSN: in a malformed one nobody knows where the password is.
 */
export function checkDsn(field: string, value: unknown): string {
  const fault = typeof value === 'string' ? faultOf(value) : `a value of type ${typeof value}`;
  if (typeof value !== 'string' || fault !== undefined) {
    throw new InvalidOptionError(field, `a URL such as ${DSN_EXAMPLE}`, fault ?? 'something else');
  }
  return value;
}

/** A checked DSN as it may be shown: `***` stands for the password, also for one among its parameters. */
export function redactDsn(dsn: string): string {
  const url = new URL(withHost(dsn));
  if (url.password !== '') url.password = '***';
  for (const name of new Set(url.searchParams.keys())) {
    if (/password/i.test(name)) url.searchParams.set(name, '***');
  }
  return url.href.replace(NO_HOST, () => aroundHosts(dsn).hosts);
}

function faultOf(dsn: string): string | undefined {
  if (dsn === '') return 'an empty string';
  if (/^\s*\w+\s*=/.test(dsn)) return 'a key=value string as libpq takes it: write it as a URL';
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(dsn)?.[1]?.toLowerCase();
  if (scheme === undefined) return 'text that does not begin with postgres://';
  if (scheme !== 'postgres' && scheme !== 'postgresql') return `a ${scheme}:// URL`;
  if (/\s/.test(dsn)) return 'a URL with white space in it: write a space as %20';
  return isWellFormed(withHost(dsn))
    ? hostsFault(dsn)
    : 'a malformed URL: in user name, password and database write : / ? # @ % as %3A %2F %3F %23 %40 %25';
}

/** A # or a late @ means that the password has a bare / ? or # in it: the URL parses, but its parts are not what was meant. */
function isWellFormed(dsn: string): boolean {
  try {
    const { username, password, pathname, search, hash } = new URL(dsn);
    // The driver decodes them when it connects, and throws there.
    for (const part of [username, password, pathname]) decodeURIComponent(part);
    return hash === '' && !`${pathname}${search}`.includes('@');
  } catch {
    return false;
  }
}

const NO_HOST = 'no-host.invalid';

/** `user:password@/db?host=/socket/directory` is no URL until it has a host, and one with several hosts until it has one. */
function withHost(dsn: string): string {
  const { before, hosts, after } = aroundHosts(dsn);
  if (hosts.includes(',')) return `${before}${NO_HOST}${after}`;
  return URL.canParse(dsn) ? dsn : dsn.replace('@/', `@${NO_HOST}/`);
}
