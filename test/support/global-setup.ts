import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  export interface ProvidedContext {
    databaseUrl: string;
  }
}

export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const given = process.env.DATABASE_URL;
  if (given) {
    project.provide('databaseUrl', given);
    return undefined;
  }
  const { startEmbedded } = await import('../../src/embedded/index.js');
  const server = await startEmbedded();
  project.provide('databaseUrl', server.url);
  return () => server.stop();
}
