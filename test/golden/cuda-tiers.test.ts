// Experts that rest on the drive, and come to slots of DRAM and of a GPU: any number of either gives the tokens of layers that are there whole.

import { describe, expect, it } from 'vitest';
import { type PlanOptions, present } from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { ALL_DRAM, fixtureFolder, generationWorkload, type Placement, readGolden } from './run-model.js';

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

/** Slots of the GPU, and of DRAM. */
const POOLS = [
  [16, 16],
  [16, 1000],
  [20, 37],
  [1000, 16],
] as const;

async function generated(name: string, batchSize: number, placement: Placement, plan: Partial<PlanOptions>) {
  const prompts = readGolden(name).input_ids;
  const engine = await Engine.open(await openModel(fixtureFolder(name)), {
    ...placement,
    device: 'cuda',
    plan,
    workload: generationWorkload(prompts, NEW_TOKENS, batchSize),
  });
  try {
    const requests = prompts.map((prompt, index) => ({ index, promptTokens: Int32Array.from(prompt) }));
    const options = { batchSize, maxNewTokens: NEW_TOKENS, stopTokens: new Set<number>() };
    const results = await generate(engine.executor, requests, options);
    const counts = await engine.executor.slotCounts();
    return { tokens: results.map(({ tokens }) => tokens), counts, slots: engine.executor.plan.slots };
  } finally {
    await engine.close();
  }
}

describe.skipIf(!HAS_GPU)('experts of the drive in slots of a GPU and of DRAM', () => {
  it.each(MIXTURES)('%s', async (name) => {
    for (const batchSize of [1, 4]) {
      const whole = await generated(name, batchSize, ALL_DRAM, {});
      for (const [expertSlots, dramSlots] of POOLS) {
        const placement = { ...ALL_DRAM, offload: 'nvme' } as const;
        const made = await generated(name, batchSize, placement, { expertSlots, dramSlots });
        expect(made.tokens, `${expertSlots} slots, ${dramSlots} behind them`).toEqual(whole.tokens);
        const { hits, misses, inDram, read } = present(made.counts, 'counts');
        const { count, keys, behind } = present(made.slots, 'slots');
        expect(hits).toBeGreaterThan(0);
        expect(read.bytes).toBeGreaterThan(0);
        if (count + present(behind, 'slots of DRAM').count >= keys)
          expect(misses - inDram).toBeLessThanOrEqual(keys);
        if (count < keys && misses > 2 * keys) expect(inDram).toBeGreaterThan(0);
      }
    }
  });
});
