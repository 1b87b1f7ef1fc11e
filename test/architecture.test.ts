import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** The house, floor by floor: a file imports from its own floor or from lower ones, never upwards. */
const FLOORS: readonly (readonly string[])[] = [
  [
    'src/errors/',
    'src/shown',
    'src/on-abort',
    'src/types',
    'src/backoff',
    'src/deferred',
    'src/known-name',
    'src/metrics',
  ],
  [
    'src/check',
    'src/driver-error',
    'src/cancel',
    'src/on-client',
    'src/retrying',
    'src/copy-in',
    'src/session',
    'src/db',
    'src/dsn',
    'src/hosts',
    'src/sql/own-transaction',
    'src/sql/host-state', // asked before there is a database to ask
  ],
  [
    'src/sql/',
    'src/config',
    'streams/',
    'src/listen-link',
    'src/listener',
    'src/over-pool',
    'src/doorbell',
    'src/message',
    'src/coalescer',
    'src/validation',
    'src/standard-schema',
    'src/limiter',
  ],
  [
    'src/ingest/',
    'src/consume/',
    'src/worker',
    'src/migrate',
    'src/embedded/',
    'src/pages',
    'src/in-steps',
    'src/dead-letters',
    'src/archive',
    'src/active-messages',
    'src/sweep-exhausted',
    'src/housekeeping',
  ],
  ['src/admin', 'src/consumer', 'src/producer'],
  ['src/connect'],
  ['src/index'],
];
/** Files of one floor that must not know each other. */
const STRANGERS = ['src/admin', 'src/consumer', 'src/producer'];
/** Where each package that talks to the server is used. */
const DRIVERS: Record<string, readonly string[]> = {
  pg: ['src/cancel.ts', 'src/db.ts', 'src/driver-error.ts', 'src/hosts-client.ts', 'src/hosts-probe.ts'],
  'pg-copy-streams': ['src/copy-in.ts'],
  'pg-listen': ['src/listen-link.ts'],
};

const SQL_STATEMENT =
  /\b(?:select\s+[\w*(]|insert\s+into\s|update\s+[\w$.{}]+\s+set\s|delete\s+from\s|create\s+(?:table|index|schema|or\s+replace|type|trigger)\s|alter\s+table\s|drop\s+(?:table|index|schema)\s|copy\s+[\w$.{}]+\s*\()/i;

const sources = ['src', 'streams'].flatMap((folder) =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.[jt]s$/.test(file))
    .map((file) => join(folder, file)),
);
const text = (file: string) => readFileSync(join(ROOT, file), 'utf8');

/** What a file imports: our own files by path, packages by name. Types too, unless asked for values only. */
function imports(file: string, only: 'all' | 'values' = 'all'): string[] {
  const found = [
    ...text(file).matchAll(
      /^(?:import|export)\b(?! (?:const|class|function|async|interface)\b)[^;]*? from '([^']+)'/gms,
    ),
  ];
  return found
    .filter(([statement]) => only === 'all' || !/^(?:import|export) type\b/.test(statement))
    .map(([, from = '']) =>
      from.startsWith('.') ? relative(ROOT, join(ROOT, dirname(file), from)).replace(/\.js$/, '.ts') : from,
    );
}

function floor(file: string): number {
  return FLOORS.findIndex((names) =>
    names.some((name) => (name.endsWith('/') ? file.startsWith(name) : is(file, name))),
  );
}

function is(file: string, name: string): boolean {
  return file === `${name}.ts` || file.startsWith(`${name}-`);
}

test('the guards see what they guard', () => {
  const all = sources.flatMap((file) => imports(file));
  expect(all.length).toBeGreaterThan(100);
  expect(imports('src/producer.ts')).toContain('streams/producer-stream.ts');
  expect(strings(text('src/sql/queues.ts')).join('\n')).toMatch(SQL_STATEMENT);
});

test('every file has its floor', () => {
  expect(sources.filter((file) => floor(file) === -1)).toEqual([]);
});

test('no import runs up the house', () => {
  const upwards = sources.flatMap((file) =>
    imports(file)
      .filter((target) => sources.includes(target) && floor(target) > floor(file))
      .map((target) => `${file} -> ${target}`),
  );
  expect(upwards).toEqual([]);
});

test('admin, consumer and producer do not know each other', () => {
  const named = (file: string) => STRANGERS.find((name) => file === `${name}.ts`);
  const known = sources.flatMap((file) =>
    named(file)
      ? imports(file)
          .filter((target) => named(target))
          .map((target) => `${file} -> ${target}`)
      : [],
  );
  expect(known).toEqual([]);
});

test('streams know functions only: neither the database nor SQL', () => {
  const allowed = [
    ...['src/errors/index.ts', 'src/errors/thrown.ts', 'src/on-abort.ts'],
    ...['src/check.ts', 'src/backoff.ts', 'src/deferred.ts'],
  ];
  const known = sources
    .filter((file) => file.startsWith('streams/'))
    .flatMap((file) => imports(file).map((target) => ({ file, target })))
    .filter(({ target }) => target.startsWith('src/') && !allowed.includes(target));
  expect(known).toEqual([]);
});

test('each package that talks to the server is used in its one place', () => {
  const elsewhere = sources.flatMap((file) =>
    imports(file, 'values')
      .filter((target) => DRIVERS[target] && !DRIVERS[target].includes(file))
      .map((target) => `${file} -> ${target}`),
  );
  expect(elsewhere).toEqual([]);
});

test('SQL stands in src/sql only', () => {
  const found = sources
    .filter((file) => !file.startsWith('src/sql/'))
    .flatMap((file) =>
      strings(text(file))
        .filter((literal) => SQL_STATEMENT.test(literal))
        .map((literal) => `${file}: ${literal}`),
    );
  expect(found).toEqual([]);
});

test('index files only re-export', () => {
  const index = sources.filter((file) => /(^|\/)index\.ts$/.test(file) && !file.startsWith('src/sql/'));
  const others = index.flatMap((file) =>
    text(file)
      .replaceAll(/^export (?:type )?(?:\*|\{[^}]*\}) from '[^']+';$/gms, '')
      .split('\n')
      .filter((line) => line.trim() !== ''),
  );
  expect(others).toEqual([]);
});

test('file names say what the file does', () => {
  expect(sources.filter((file) => /\b(?:utils?|helpers?|common|lib|manager|misc)\b/.test(file))).toEqual([]);
});

test('no file outgrows its room without saying why', () => {
  const long = sources.filter(
    (file) => text(file).split('\n').length > 350 && !/^\/[/*][^\n]*long/i.test(text(file)),
  );
  expect(long).toEqual([]);
});

/** The string and template literals of a source, comments left out. */
function strings(source: string): string[] {
  const withoutComments = source.replaceAll(/\/\*[\s\S]*?\*\/|(?<![:'"`\w])\/\/[^\n]*/g, '');
  return [...withoutComments.matchAll(/`(?:[^`\\]|\\.)*`|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"/g)].map(
    ([literal]) => literal,
  );
}
