import { EmbeddedServerError } from '../errors/index.js';

const SHOWN_LINES = 15;

/** What to do about what the server says. The first that fits is shown. */
const REMEDIES: readonly (readonly [RegExp, string])[] = [
  [
    /lock file "postmaster\.pid" already exists/,
    'another server uses this dataDir: stop it, or choose another dataDir',
  ],
  [/could not create any TCP\/IP sockets/, 'choose another port, or leave it out to get a free one'],
  [
    /invalid value for parameter|unrecognized configuration parameter|outside the valid range/,
    'correct settings',
  ],
  [/could not (?:create shared memory|map anonymous shared memory)/, 'lower settings.shared_buffers'],
  [/No space left on device/, 'make room, or set TMPDIR (or dataDir) to a folder on a larger disk'],
  [
    /database files are incompatible/,
    'another version made this dataDir: use that one, or choose another dataDir',
  ],
  [
    /Permission denied|EACCES/,
    "the server's user must be able to enter every folder above TMPDIR or dataDir: choose another one",
  ],
];

/** The error for a server that did not start: the end of its log, and what to do about it. */
export function startFailure(log: readonly string[]): EmbeddedServerError {
  const lines = log.length > 0 ? log.slice(-SHOWN_LINES) : ['its guardian process was ended from outside'];
  const text = lines.join('\n  ');
  const remedy = REMEDIES.find(([pattern]) => pattern.test(text))?.[1];
  return new EmbeddedServerError(
    `the embedded PostgreSQL did not start:\n  ${text}${remedy === undefined ? '' : `\n${remedy}`}`,
  );
}

/** Whether somebody else has the port. */
export function portTaken(error: unknown): boolean {
  return (
    error instanceof EmbeddedServerError && error.message.includes('could not create any TCP/IP sockets')
  );
}
