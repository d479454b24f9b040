import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/cli/compile.ts'],
    // Tests drive native threads; one process per file keeps a crash in one from hiding the others.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
  },
});
