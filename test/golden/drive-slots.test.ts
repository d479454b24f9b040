// Experts that are read from the drive when they are chosen must not change tokens, however few slots of DRAM there are for them.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { ALL_DRAM, fixtureFolder, generateFixture, generationWorkload, readGolden } from './run-model.js';

const NEW_TOKENS = 10;

/** One of every way to store experts, to choose them, and to stand beside other layers. */
const MIXTURES = [
  'deepseek_v4',
  'gemma4_moe',
  'glm4_moe_lite',
  'gpt_oss-mxfp4',
  'llama4_text',
  'mixtral',
  'nemotron_h',
  'q-fp8-block-deepseek_v3',
  'qwen3_next',
  'step3p7',
];

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
