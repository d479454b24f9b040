// Experts that come when they are chosen must not change tokens: any number of slots, on any number of devices, gives the same.

import { describe, expect, it } from 'vitest';
import { ALL_DRAM, generateFixture, MIXTURES, readGolden } from './run-model.js';
import { generateInSlots } from './run-slots.js';

const NEW_TOKENS = 10;

/** Slots, devices, sequences at once: with few slots prompts pass by in whole layers, and with one for each expert nobody leaves. */
const POOLS = [
  [8, 1, 1, 'auto'],
  [9, 2, 2, 'only'],
  [12, 1, 64, 'only'],
  [1000, 1, 1, 'off'],
] as const;

describe.each(MIXTURES)('%s', (name) => {
  const prompts = readGolden(name).input_ids;

  it.each(POOLS)(
    '%i slots on %i devices, %i sequences at once, the CPU beside them: %s',
    async (expertSlots, virtualDevices, batchSize, cpuCompute) => {
      const expected = await generateFixture(name, prompts, NEW_TOKENS, ALL_DRAM, batchSize);
      const { results, again, counts, slots } = await generateInSlots(name, {
        newTokens: NEW_TOKENS,
        batchSize,
        cpu: { virtualDevices },
        plan: { expertSlots, cpuCompute },
      });
      expect(results).toEqual(expected);
      expect(again).toEqual(expected);
      const { count, keys } = slots;
      const { hits, misses, computedByHost } = counts;
      expect(hits).toBeGreaterThan(0);
      // Nobody who lies in a slot comes again.
      if (count < keys) expect(misses).toBeGreaterThan(count);
      else if (cpuCompute === 'off') expect(misses).toBeLessThanOrEqual(keys * virtualDevices);
      if (cpuCompute === 'off') expect(computedByHost).toBe(0);
      else if (cpuCompute === 'only' && count < keys) expect(computedByHost).toBeGreaterThan(0);
    },
  );
});
