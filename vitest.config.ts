import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Small files that take long: started last, as small ones are, they would run alone at the end. */
const LONG = ['test/simulation/', 'test/golden/placement', 'test/cli/plan', 'test/cli/doctor'];

/** What takes longest, for minutes on two cores; `ZI_TESTS=all` plays it too. */
const LONGEST = [
  'test/simulation/canaries.test.ts',
  'test/simulation/engine.test.ts',
  'test/simulation/generation.test.ts',
  'test/plan/kernel-scratch.test.ts',
  'test/native/weights.test.ts',
  'test/cli/plan.test.ts',
  'test/engine/schedules.test.ts',
  'test/engine/request-ends.test.ts',
];

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
    exclude: process.env.ZI_TESTS === 'all' ? [] : LONGEST,
    globalSetup: ['test/cli/compile.ts'],
    // Tests drive native threads; one process per file keeps a crash in one from hiding the others.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    sequence: { sequencer: LongOnesFirst },
  },
});
