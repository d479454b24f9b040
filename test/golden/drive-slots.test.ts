// Experts that are read from the drive when they are chosen must not change tokens, however few slots of DRAM there are for them.

import { describe, expect, it } from 'vitest';
import { ALL_DRAM, generateFixture, MIXTURES, readGolden } from './run-model.js';
import { generateInSlots } from './run-slots.js';

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
    const { results, counts, slots } = await generateInSlots(name, {
      newTokens: NEW_TOKENS,
      batchSize,
      offload: 'auto',
      plan: { expertSlots },
    });
    expect(results).toEqual(expected);
    const { count, keys } = slots;
    const { hits, misses, read } = counts;
    expect(hits).toBeGreaterThan(0);
    expect(read.bytes).toBeGreaterThan(0);
    // Nobody who lies in a slot comes again.
    if (count === keys) expect(misses).toBeLessThanOrEqual(keys);
    else expect(misses).toBeGreaterThan(count);
  });
});
