import pg from 'pg';
import { expect, test } from 'vitest';
import { checkDsn, redactDsn } from '../src/dsn.js';
import { parseHosts } from '../src/dsn-hosts.js';
import { InvalidOptionError } from '../src/errors/index.js';

function refusal(value: unknown): InvalidOptionError {
  try {
    checkDsn('dsn', value);
  } catch (error) {
    if (error instanceof InvalidOptionError) return error;
    throw error;
  }
  throw new Error('the DSN was accepted');
}

test.each([
  ['postgres://h/db', { host: 'h', database: 'db' }],
  ['postgresql://u:pw@h:5433/db?sslmode=disable', { host: 'h', port: 5433, user: 'u', password: 'pw' }],
  ['postgres://u:p%40w%2F%23@h/db', { user: 'u', password: 'p@w/#' }],
  ['postgres://u%40server:pw@h/db', { user: 'u@server', password: 'pw' }],
  ['postgres://u@server:pw@h/db', { host: 'h', user: 'u@server', password: 'pw' }],
  ['postgres://[::1]:5433/db', { host: '::1', port: 5433 }],
  ['postgres://%2Fvar%2Frun/db', { host: '/var/run', database: 'db' }],
  ['postgres://u:pw@/db?host=/var/run', { host: '/var/run', user: 'u', password: 'pw', database: 'db' }],
])('%s is taken as it is, and the driver reads the same parts out of it', (dsn, parts) => {
  expect(checkDsn('dsn', dsn)).toBe(dsn);
  expect(new pg.Client(dsn)).toMatchObject(parts);
});

test.each([
  ['', 'an empty string'],
  [7, 'a value of type number'],
  [null, 'a value of type object'],
  ['host=localhost password=S3cr3t', 'a key=value string as libpq takes it: write it as a URL'],
  ['mysql://u:S3cr3t@h/db', 'a mysql:// URL'],
  ['u:S3cr3t@h/db', 'text that does not begin with postgres://'],
  ['postgres:u:S3cr3t@h/db', 'text that does not begin with postgres://'],
  ['postgres://u:S3cr3t@h/db\n', 'a URL with white space in it: write a space as %20'],
])('%j is refused with what is wrong and without a word of it', (value, got) => {
  const error = refusal(value);
  expect(error.message).toBe(
    `dsn must be a URL such as postgres://user:password@host:5432/database, got ${got}`,
  );
  expect(error.message).not.toContain('S3cr3t');
});

test.each([
  'postgres://u:p/w@h/db',
  'postgres://u:12/w@h/db',
  'postgres://u:12?w@h/db',
  'postgres://u:12#w@h/db',
  'postgres://u:100%@h/db',
  'postgres://u:%80@h/db',
  'postgres://u:w@:5432/db',
  'postgres://h:port/db',
  'postgres://u:12,p/w@a,b/db',
  'postgres://u:12,p?w@a,b/db',
  'postgres://u:12,p#w@a,b/db',
  'postgres://u:100%@a,b/db',
])('%s is malformed', (dsn) => {
  expect(refusal(dsn).value).toContain('a malformed URL');
});

test.each([
  ['postgres://h/db', 'postgres://h/db'],
  ['postgres://u@h/db', 'postgres://u@h/db'],
  ['postgres://u:pw@h:5433/db?sslmode=require', 'postgres://u:***@h:5433/db?sslmode=require'],
  ['postgres://u:pw@/db?host=/tmp', 'postgres://u:***@/db?host=/tmp'],
  ['postgres://h/db?password=pw&sslmode=require', 'postgres://h/db?password=***&sslmode=require'],
  ['postgres://h/db?sslpassword=pw&PASSWORD=pw', 'postgres://h/db?sslpassword=***&PASSWORD=***'],
  ['postgres://h/db?password=pw&password=pw', 'postgres://h/db?password=***'],
])('%s is shown as %s', (dsn, shown) => expect(redactDsn(checkDsn('dsn', dsn))).toBe(shown));

test.each([
  [
    'postgres://u:S3cr3t@a,b/db',
    [
      ['a', 5432],
      ['b', 5432],
    ],
    'read-write',
  ],
  [
    'postgresql://u:S3cr3t@a:1,b:2/db?target_session_attrs=any',
    [
      ['a', 1],
      ['b', 2],
    ],
    'any',
  ],
  [
    'postgres://a,b:5433/db',
    [
      ['a', 5432],
      ['b', 5433],
    ],
    'read-write',
  ],
  [
    'postgres://a:,b:5433/db',
    [
      ['a', 5432],
      ['b', 5433],
    ],
    'read-write',
  ],
  [
    'postgres://a:1,b:2/db?port=5433',
    [
      ['a', 5433],
      ['b', 5433],
    ],
    'read-write',
  ],
  [
    'postgres://u@server:S3cr3t@[::1]:5433,[fe80::1]/db',
    [
      ['::1', 5433],
      ['fe80::1', 5432],
    ],
    'read-write',
  ],
  [
    'postgres://%2Fvar%2Frun,b/db',
    [
      ['/var/run', 5432],
      ['b', 5432],
    ],
    'read-write',
  ],
  [
    'postgres://u:S3cr3t@/db?host=/var/run,::1&port=1,2',
    [
      ['/var/run', 1],
      ['::1', 2],
    ],
    'read-write',
  ],
  [
    'postgres://u:a,b:S3cr3t@a,b?target_session_attrs=prefer-standby',
    [
      ['a', 5432],
      ['b', 5432],
    ],
    'prefer-standby',
  ],
] as const)('%s names its hosts as for libpq, and each is one for the driver', (dsn, hosts, target) => {
  const parsed = parseHosts(checkDsn('dsn', dsn))!;
  expect(parsed.target).toBe(target);
  expect(parsed.hosts.map(({ at }) => [at?.host, at?.port])).toEqual(hosts);
  for (const { at, url } of parsed.hosts) {
    expect(checkDsn('dsn', url)).toBe(url);
    expect(parseHosts(url)).toBeUndefined();
    const { host, port, password, database } = new pg.Client(url);
    expect({ host, port }).toEqual(at);
    if (dsn.includes('S3cr3t')) expect(password).toContain('S3cr3t');
    if (dsn.includes('/db')) expect(database).toBe('db');
  }
});

test('what else a DSN says goes for each of its hosts', () => {
  const { hosts, timeoutMs } = parseHosts(
    'postgres://a,b/db?sslmode=disable&connect_timeout=7&options=-c%20geqo%3Doff&application_name=x%26y',
  )!;
  expect(timeoutMs).toBe(7_000);
  for (const { url } of hosts) {
    expect(new pg.Client(url)).toMatchObject({
      ssl: false,
      connectionParameters: { options: '-c geqo=off', application_name: 'x&y' },
    });
  }
});

test('a DSN of one host is looked at only where it says which servers will do', () => {
  expect(parseHosts('postgres://u:p,w@h:1/db?options=a,b')).toBeUndefined();
  const dsn = 'postgres://h:1/db?target_session_attrs=primary';
  expect(parseHosts(checkDsn('dsn', dsn))).toMatchObject({
    hosts: [{ name: 'h', url: dsn }],
    target: 'primary',
    timeoutMs: 2_000,
  });
});

test.each([
  ['postgres://u:S3cr3t@a,/db', 'an empty host in a list of hosts'],
  ['postgres://u:S3cr3t@a,,b/db', 'an empty host in a list of hosts'],
  ['postgres://u:S3cr3t@,/db', 'an empty host in a list of hosts'],
  ['postgres://u:S3cr3t@a:1,:2/db', 'an empty host in a list of hosts'],
  ['postgres://u:S3cr3t@a:x,b/db', 'a port that is not a number from 1 to 65535'],
  ['postgres://u:S3cr3t@a:0,b/db', 'a port that is not a number from 1 to 65535'],
  ['postgres://u:S3cr3t@a:65536,b/db', 'a port that is not a number from 1 to 65535'],
  ['postgres://u:S3cr3t@a,b/db?port=1,2,3', '3 ports for 2 hosts'],
  ['postgres://u:S3cr3t@a/db?port=1,2', '2 ports for 1 host'],
  ['postgres://u:S3cr3t@[::x],b/db', 'a host that is no name or address'],
  [
    'postgres://u:S3cr3t@a/db?target_session_attrs=master',
    'a target_session_attrs other than any, read-write, read-only, primary, standby, prefer-standby',
  ],
])('%s is refused with what is wrong with its hosts', (dsn, got) => {
  const { message } = refusal(dsn);
  expect(message).toBe(`dsn must be a URL such as postgres://user:password@host:5432/database, got ${got}`);
});

test.each([
  ['postgres://u:pw@a:1,b:2/db', 'postgres://u:***@a:1,b:2/db'],
  ['postgres://u:$&p,w@a,[::1]:2/db?sslmode=require', 'postgres://u:***@a,[::1]:2/db?sslmode=require'],
  ['postgres://u:pw@/db?host=a,b&password=pw', 'postgres://u:***@/db?host=a%2Cb&password=***'],
  ['postgres://a,b/db?password=pw', 'postgres://a,b/db?password=***'],
])('%s of several hosts is shown as %s', (dsn, shown) => expect(redactDsn(checkDsn('dsn', dsn))).toBe(shown));

test('no password with two unescaped ASCII characters before it is ever shown', () => {
  const ascii = Array.from({ length: 128 }, (_, code) => String.fromCharCode(code));
  for (const start of ['', '12']) {
    for (const [first, second] of ascii.flatMap((a) => ascii.map((b) => [a, b] as const))) {
      for (const hosts of ['h', 'a,b:1']) {
        const dsn = `postgres://u:${start}${first}${second}S3cr3t@${hosts}/db`;
        expect(shownOf(dsn)).not.toContain('S3cr3t');
      }
    }
  }
});

function shownOf(dsn: string): string {
  try {
    return redactDsn(checkDsn('dsn', dsn));
  } catch (error) {
    return String(error);
  }
}
