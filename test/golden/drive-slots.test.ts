// Experts that are read from the drive when they are chosen must not change tokens, however few slots of DRAM there are for them.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import {
  ALL_DRAM,
  fixtureFolder,
  generateFixture,
  generationWorkload,
  MIXTURES,
  readGolden,
} from './run-model.js';

const NEW_TOKENS = 10;

/** Slots, sequences at once. */
const POOLS = [
  [8, 1],
  [1000, 3],
] as const;

describe.each(MIXTURES)('%s', (name) => {
  const prompts = readGolden(name).input_ids;

  it.each(POOLS)('%i slots, %i sequences at once', async (expertSlots, batchSize) => {
    const expected = await generateFixture(name, prompts, NEW_TOKENS, ALL_DRAM, batchSize);
    const engine = await Engine.open(await openModel(fixtureFolder(name)), {
      ...ALL_DRAM,
      offload: 'auto',
      plan: { expertSlots },
      workload: generationWorkload(prompts, NEW_TOKENS, batchSize),
    });
    try {
      const requests = prompts.map((prompt, index) => ({ index, promptTokens: Int32Array.from(prompt) }));
      const options = { batchSize, maxNewTokens: NEW_TOKENS, stopTokens: new Set<number>() };
      expect(await generate(engine.executor, requests, options)).toEqual(expected);
      const { count, keys } = present(engine.executor.plan.slots, 'slots of the plan');
      const { hits, misses, read } = present(await engine.executor.slotCounts(), 'counts');
      expect(hits).toBeGreaterThan(0);
      expect(read.bytes).toBeGreaterThan(0);
      // Nobody who lies in a slot comes again.
      if (count === keys) expect(misses).toBeLessThanOrEqual(keys);
      else expect(misses).toBeGreaterThan(count);
    } finally {
      await engine.close();
    }
  });
});
