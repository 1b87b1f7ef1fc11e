import { constants, existsSync } from 'node:fs';
import { chmod, lchown, mkdir, open, readdir, realpath } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { EmbeddedServerError } from '../errors/index.js';
import type { ServerUser } from './binaries.js';

export interface KeptFolder {
  path: string;
  /** The superuser's, from the run that made the data; undefined when there are no data yet. */
  password: string | undefined;
}

/** What a start that was cut off may leave, and what a file system puts into its root. */
const HARMLESS = new Set(['password', 'data.new', 'lost+found']);

/**
 * The folder that keeps the data, made if need be, for `user` alone. One with other things in it is refused: it would
 * change hands.
 */
export async function keptFolder(dataDir: string, user: ServerUser): Promise<KeptFolder> {
  const path = await make(resolve(dataDir));
  const hasData = existsSync(join(path, 'data', 'PG_VERSION'));
  const foreign = (await readdir(path)).find((name) => !HARMLESS.has(name));
  if (!hasData && foreign !== undefined) {
    throw new EmbeddedServerError(
      `dataDir ${path} holds other things (${foreign}), which no embedded PostgreSQL left there; choose an empty folder`,
    );
  }
  const password = hasData ? await storedPassword(join(path, 'password')) : undefined;
  await chmod(path, 0o700);
  if (user.uid !== undefined && user.gid !== undefined) await lchown(path, user.uid, user.gid);
  return { path, password };
}

async function make(path: string): Promise<string> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
    return await realpath(path);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new EmbeddedServerError(`dataDir ${path} cannot be made: ${reason}`, { cause: error });
  }
}

/** Follows no link: the folder is the server's, and we may be root. */
async function storedPassword(path: string): Promise<string> {
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      return await file.readFile('utf8');
    } finally {
      await file.close();
    }
  } catch (error) {
    throw new EmbeddedServerError(`the password of the data is not in ${path}; choose an empty dataDir`, {
      cause: error,
    });
  }
}
