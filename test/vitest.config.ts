import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const source = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));

export default defineConfig({
  root: source('.'),
  resolve: {
    alias: [
      { find: /^pg-sluice$/, replacement: source('src/index.ts') },
      { find: /^pg-sluice\/streams$/, replacement: source('streams/index.ts') },
      { find: /^pg-sluice\/embedded$/, replacement: source('src/embedded/index.ts') },
    ],
  },
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
