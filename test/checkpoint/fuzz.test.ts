// Every reader on some thousand damaged files; bench/fuzz.ts runs a million.

import { expect, test } from 'vitest';
import { runCases } from '../../bench/fuzz-run.js';
import { FUZZ_TARGETS } from '../../bench/fuzz-targets.js';

const MUTATIONS = 20_000;

test.each(FUZZ_TARGETS.map((target) => [target.name, target] as const))('%s', async (_name, target) => {
  const { counts, failures } = await runCases(target, { seed: 42, from: 0, to: MUTATIONS * target.share });
  expect(failures).toEqual([]);
  // Damage must not be so coarse that all is refused at the first check.
  expect(counts.read).toBeGreaterThan(0);
});
