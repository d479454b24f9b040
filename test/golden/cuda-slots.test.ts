// Experts that come to a GPU when they are chosen must not change tokens, however few slots there are.

import { describe, expect, it } from 'vitest';
import { type PlanOptions, present } from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import { GPU_MIXTURES, generateChosen } from './run-slots.js';

const HAS_GPU = native().cudaStatus().devices.length > 0;
const NEW_TOKENS = 24;

/** Slots, what the CPU computes, and in which type the GPU does beside it: of f32 both make the same tokens. */
const POOLS = [
  [16, 'off', undefined],
  [1000, 'off', undefined],
  [16, 'auto', 'f32'],
  [16, 'only', 'f32'],
] as const;

async function generated(name: string, batchSize: number, plan: Partial<PlanOptions>) {
  const options = { newTokens: NEW_TOKENS, batchSize, device: 'cuda', plan } as const;
  const { results, again, counts } = await generateChosen(name, options);
  const tokens = results.map((one) => one.tokens);
  if (counts) expect(again?.map((one) => one.tokens)).toEqual(tokens);
  return { tokens, counts };
}

describe.skipIf(!HAS_GPU)('experts in slots of a GPU', () => {
  it.each(GPU_MIXTURES)('%s', async (name) => {
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
