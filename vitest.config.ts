import { existsSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { defineConfig, type Plugin } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { HANG_MS } from './test/helpers/hang.js';

const hasGpu = existsSync('/dev/nvidiactl');
/**
 * They change what the addon has once in a process, count a process's memory and threads, or use a GPU; without one, tests
 * of GPUs are only counted.
 */
const ALONE = [
  'test/bench/soak.test.ts',
  ...(hasGpu ? ['test/native/*.test.ts', 'test/**/cuda-*.test.ts'] : ['test/native/!(cuda-*).test.ts']),
];

/** Small files that take long: started last, as small ones are, they would run alone at the end. */
const LONG = ['test/simulation/', 'test/golden/placement', 'test/cli/plan', 'test/cli/doctor'];

/** Files that follow each other share a process if they may; small ones come last, so that both processes end together. */
class LongOnesFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const turn = ({ moduleId, project }: TestSpecification) => {
      if (project.name === 'alone') return 0;
      return LONG.some((part) => moduleId.includes(part)) ? 1 : 2;
    };
    const sorted = await super.sort(files);
    return sorted.sort((a, b) => turn(a) - turn(b));
  }
}

const ROOT = import.meta.dirname;
/** What tests import of these is run as it was compiled. */
const COMPILED = /^(src|offload|bench|test\/simulat(or|ion))\/(?!.*\.test\.js$).*\.js$/;

/** In modules that vitest loads itself each use of an import is a look-up, which makes them a third slower. */
const compiled: Plugin = {
  name: 'compiled',
  enforce: 'pre',
  resolveId(name, importer) {
    if (!name.startsWith('.') || !importer?.startsWith(join(ROOT, 'test/'))) return undefined;
    const path = relative(ROOT, resolve(dirname(importer), name));
    return COMPILED.test(path) ? join(ROOT, 'dist', path) : undefined;
  },
};

export default defineConfig({
  plugins: [compiled],
  test: {
    server: { deps: { external: [/\/dist\//] } },
    globalSetup: ['test/cli/compile.ts'],
    // A crash ends one process: the file that had it fails, and those after it get another.
    pool: 'forks',
    maxWorkers: 2,
    // For what hangs: longer than whatever a test itself waits for.
    testTimeout: 2 * HANG_MS,
    hookTimeout: 2 * HANG_MS,
    sequence: { sequencer: LongOnesFirst },
    projects: [
      { extends: true, test: { name: 'alone', include: ALONE, isolate: true } },
      // Modules are loaded once for many files: otherwise that takes a second each.
      {
        extends: true,
        test: { name: 'shared', include: ['test/**/*.test.ts'], exclude: ALONE, isolate: false },
      },
    ],
  },
});
