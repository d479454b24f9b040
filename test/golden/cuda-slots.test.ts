// Experts that come to a GPU when they are chosen must not change tokens, however few slots there are.

import { describe, expect, it } from 'vitest';
import { type PlanOptions, present } from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { ALL_DRAM, fixtureFolder, generationWorkload, readGolden } from './run-model.js';

const HAS_GPU = native().cudaStatus().devices.length > 0;
const NEW_TOKENS = 24;
const MIXTURES = [
  'deepseek_v4',
  'glm4_moe_lite',
  'gpt_oss',
  'gpt_oss-mxfp4',
  'mixtral',
  'q-fp8-block-deepseek_v3',
  'qwen3_next',
];

/** Slots, what the CPU computes, and in which type the GPU does beside it: of f32 both make the same tokens. */
const POOLS = [
  [16, 'off', undefined],
  [1000, 'off', undefined],
  [16, 'auto', 'f32'],
  [16, 'only', 'f32'],
] as const;

async function generated(name: string, batchSize: number, plan: Partial<PlanOptions>) {
  const prompts = readGolden(name).input_ids;
  const engine = await Engine.open(await openModel(fixtureFolder(name)), {
    ...ALL_DRAM,
    device: 'cuda',
    plan,
    workload: generationWorkload(prompts, NEW_TOKENS, batchSize),
  });
  try {
    const requests = prompts.map((prompt, index) => ({ index, promptTokens: Int32Array.from(prompt) }));
    const options = { batchSize, maxNewTokens: NEW_TOKENS, stopTokens: new Set<number>() };
    const results = await generate(engine.executor, requests, options);
    return { tokens: results.map(({ tokens }) => tokens), counts: await engine.executor.slotCounts() };
  } finally {
    await engine.close();
  }
}

describe.skipIf(!HAS_GPU)('experts in slots of a GPU', () => {
  it.each(MIXTURES)('%s', async (name) => {
    for (const batchSize of [1, 4]) {
      const whole = {
        usual: await generated(name, batchSize, {}),
        f32: await generated(name, batchSize, { activationType: 'f32' }),
      };
      for (const [expertSlots, cpuCompute, type] of POOLS) {
        const plan = { expertSlots, cpuCompute, ...(type ? { activationType: type } : {}) };
        const { tokens, counts } = await generated(name, batchSize, plan);
        expect(tokens, `${expertSlots} slots, the CPU ${cpuCompute}`).toEqual(whole[type ?? 'usual'].tokens);
        const { hits, misses, computedByHost } = present(counts, 'counts');
        expect(hits).toBeGreaterThan(0);
        if (cpuCompute === 'only') expect(computedByHost).toBeGreaterThan(misses > 16 ? 0 : -1);
      }
    }
  });
});
