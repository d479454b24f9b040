import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Small files that take long: started last, as small ones are, they would run alone at the end. */
const LONG = ['test/simulation/', 'test/golden/placement', 'test/cli/plan', 'test/cli/doctor'];

class LongOnesFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = ({ moduleId }: TestSpecification) => LONG.some((part) => moduleId.includes(part));
    const sorted = await super.sort(files);
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))];
  }
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/cli/compile.ts'],
    // Tests drive native threads; one process per file keeps a crash in one from hiding the others.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    sequence: { sequencer: LongOnesFirst },
  },
});
