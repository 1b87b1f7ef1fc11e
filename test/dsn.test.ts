import pg from 'pg';
import { expect, test } from 'vitest';
import { checkDsn, redactDsn } from '../src/dsn.js';
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
  'postgres://a:1,b:2/db',
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

test('no password with two unescaped ASCII characters before it is ever shown', () => {
  const ascii = Array.from({ length: 128 }, (_, code) => String.fromCharCode(code));
  for (const start of ['', '12']) {
    for (const [first, second] of ascii.flatMap((a) => ascii.map((b) => [a, b] as const))) {
      const dsn = `postgres://u:${start}${first}${second}S3cr3t@h/db`;
      expect(shownOf(dsn)).not.toContain('S3cr3t');
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
