import { readFile } from 'node:fs/promises';

/**
 * The installed release of a package, if it runs on this Node.
 * @returns nothing where its peer has to be left out, after a line that says why
 */
export async function fittingVersion(name: string): Promise<string | undefined> {
  const manifest = await readManifest(name);
  const why = manifest ? misfit(manifest) : 'it is not installed';
  if (why === undefined) return manifest?.version;
  console.log(`${name} is left out: ${why}`);
  return undefined;
}

interface Manifest {
  version: string;
  engines?: { node?: string };
}

/** Read as a file: not every package exports it. */
async function readManifest(name: string): Promise<Manifest | undefined> {
  const file = new URL(`../node_modules/${name}/package.json`, import.meta.url);
  const text = await readFile(file, 'utf8').catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as Manifest);
}

/** Knows ranges such as `>=22.12.0`, which is how these packages put it. */
function misfit({ version, engines }: Manifest): string | undefined {
  const least = engines?.node?.replace(/^>=\s*/, '') ?? '0';
  const fits = process.versions.node.localeCompare(least, 'en', { numeric: true }) >= 0;
  return fits ? undefined : `${version} needs Node ${least}, and this is ${process.versions.node}`;
}
