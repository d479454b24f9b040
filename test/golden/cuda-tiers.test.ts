// Experts that rest on the drive, and come to slots of DRAM and of a GPU: any number of either gives the tokens of layers that are there whole.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import { GPU_MIXTURES, generateChosen, type SlotRunOptions } from './run-slots.js';

const HAS_GPU = native().cudaStatus().devices.length > 0;
const NEW_TOKENS = 24;

/** Slots of the GPU, and of DRAM. */
const POOLS = [
  [16, 16],
  [16, 1000],
  [20, 37],
  [1000, 16],
] as const;

async function generated(name: string, options: Omit<SlotRunOptions, 'newTokens' | 'device'>) {
  const { results, ...rest } = await generateChosen(name, {
    newTokens: NEW_TOKENS,
    device: 'cuda',
    ...options,
  });
  return { tokens: results.map(({ tokens }) => tokens), ...rest };
}

describe.skipIf(!HAS_GPU)('experts of the drive in slots of a GPU and of DRAM', () => {
  it.each(GPU_MIXTURES)('%s', async (name) => {
    for (const batchSize of [1, 4]) {
      const whole = await generated(name, { batchSize });
      for (const [expertSlots, dramSlots] of POOLS) {
        const plan = { expertSlots, dramSlots };
        const made = await generated(name, { batchSize, offload: 'nvme', plan });
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
