// Experts that rest on the drive, and come to slots of DRAM and of a device with memory of its own: any number of either gives the same tokens.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { ALL_DRAM, generateFixture, MIXTURES, readGolden } from './run-model.js';
import { generateInSlots } from './run-slots.js';

const NEW_TOKENS = 10;

/** Slots of a device, and of DRAM for each; devices, sequences at once. With few, prompts pass by in whole layers. */
const POOLS = [
  [8, 8, 1, 1],
  [9, 21, 2, 2],
  [1000, 8, 1, 3],
] as const;

describe.each(MIXTURES)('%s', (name) => {
  const prompts = readGolden(name).input_ids;

  it.each(POOLS)(
    '%i slots and %i behind them on %i devices, %i sequences at once',
    async (expertSlots, dramSlots, virtualDevices, batchSize) => {
      const expected = await generateFixture(name, prompts, NEW_TOKENS, ALL_DRAM, batchSize);
      const { results, counts, slots } = await generateInSlots(name, {
        newTokens: NEW_TOKENS,
        batchSize,
        offload: 'nvme',
        cpu: { virtualDevices },
        plan: { expertSlots, dramSlots },
      });
      expect(results).toEqual(expected);
      const { hits, misses, inDram, read } = counts;
      const behind = present(slots.behind, 'slots in DRAM');
      const keys = slots.keys * virtualDevices;
      expect(hits).toBeGreaterThan(0);
      const reads = misses - inDram;
      expect(read.bytes).toBeGreaterThan(0);
      expect(read.bytes).toBeLessThanOrEqual(reads * behind.bytes);
      // Nobody who lies in a slot is read again, and whoever leaves the device lies in one of DRAM.
      if (slots.count + behind.count >= slots.keys) expect(reads).toBeLessThanOrEqual(keys);
      else expect(reads).toBeGreaterThan(slots.count + behind.count);
      if (slots.count < slots.keys) expect(inDram).toBeGreaterThan(0);
    },
  );
});
